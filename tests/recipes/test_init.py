"""`evolpo init`: what it writes is a recipe that passes its dry run, and nothing is written over."""

from pathlib import Path

import pytest
from test_arguments import compose

from evolpo import InputError
from evolpo.recipes.init import InitConfig, init
from evolpo.recipes.runs.dry_run import dry_run


@pytest.mark.timeout(300)
def test_what_it_writes_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    written = init("first_try", tmp_path)
    assert [path.name for path in written] == ["first_try.yaml", "first_try_problems.jsonl", "first_try_rewards.py"]
    config = compose("train", "--config", "first_try.yaml", "processes=1")
    assert config.name == "first_try"
    said = dry_run(config)
    assert "120 problems to train on, 40 held out" in said
    assert said.endswith("configuration is fine")
    with pytest.raises(InputError, match="is there already"):
        init("first_try", tmp_path)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "with blank", "1st", "a-b", "ü"])
def test_a_name_is_one_of_a_module(name: str) -> None:
    with pytest.raises(InputError, match=r"^name: "):
        InitConfig(name)


def test_the_ending_may_be_given() -> None:
    assert InitConfig("my_run.yaml").name == "my_run"
