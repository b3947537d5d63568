"""`evolpo merge` from end to end: a tiny supervised run, its checkpoints merged and judged by what it held out."""

import json
import sys
import weakref
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from processes import finish, run_folder, start
from test_sft import command, single_loss

from evolpo.model import load_model, load_tokenizer
from evolpo.recipes import cli, merge
from evolpo.recipes.config import SftConfig
from evolpo.recipes.runs.resume import saved_config
from evolpo.recipes.sft import encode_example, load_examples
from evolpo.rl.logs.metrics import read_metrics

STEPS = 3


@pytest.fixture(scope="module")
def run(tiny_model_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supervised run with a checkpoint and a held-out loss of every step; read only."""
    folder = tmp_path_factory.mktemp("merge")
    fields = [f"steps={STEPS}", "trainer.save_every=1", "trainer.keep_checkpoints=0", "evaluate_every=1"]
    finish(start(command(tiny_model_path, "name=run", *fields), folder))
    return run_folder(folder, "run")


def evolpo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["evolpo", *arguments])
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_merge_is_judged_beside_its_checkpoints_one_model_at_a_time(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[torch.nn.Module]] = []
    others: list[int] = []

    def counted(path: str, dtype: torch.dtype) -> torch.nn.Module:
        others.append(sum(model() is not None for model in loaded))
        model = load_model(path, dtype)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(merge, "load_model", counted)
    output = tmp_path / "merged"
    fields = (f"run={run}", f"heldout={run}", "decay=linear", f"output={output}")
    code, out, err = evolpo(capsys, monkeypatch, "merge", *fields)
    assert code == 0, err
    assert others == [0] * (STEPS + 1)

    report = json.loads((output / "merge.json").read_text())
    assert report["decay"] == "linear"
    assert report["heldout"] == str(run)
    assert [one["weight"] for one in report["checkpoints"]] == [0.25, 0.5, 0.25]
    names = ["eval/loss", "eval/direct/loss", "eval/sentences/loss"]
    for one, record in zip(report["checkpoints"], read_metrics(run / "metrics.jsonl"), strict=True):
        assert Path(one["folder"]).name == f"step_{record['step']}"
        for name in names:  # what the trainer said of it
            assert one[name] == pytest.approx(record[name], abs=1e-5)
    _, examples = load_examples(saved(run))
    model, tokenizer = load_model(str(output), torch.float32), load_tokenizer(str(output))
    with torch.no_grad():
        expected = single_loss(model, [encode_example(one, tokenizer) for one in examples]).item()
    assert report["merged"]["eval/loss"] == pytest.approx(expected, abs=1e-5)

    *table, last = out.splitlines()
    assert last == str(output)
    assert [line.split()[0] for line in table] == ["held-out", "merged", "last", "best"]
    best = min(report["checkpoints"], key=lambda one: one["eval/loss"])
    for line, one in zip(table[1:], (report["merged"], report["checkpoints"][-1], best), strict=True):
        assert line.split()[1:] == [Path(one["folder"]).name, *(f"{one[name]:.4f}" for name in names)]


def saved(run: Path) -> SftConfig:
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(saved_config(run, SftConfig, "run"))
    assert isinstance(config, SftConfig)
    return config


def test_without_a_judge_the_weights_are_kept(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "merged"
    code, out, _ = evolpo(capsys, monkeypatch, "merge", f"run={run}", "last=2", "decay=uniform", f"output={output}")
    assert (code, out) == (0, f"{output}\n")
    folders = [str(run / "checkpoints" / f"step_{step}") for step in (STEPS - 1, STEPS)]
    assert json.loads((output / "merge.json").read_text()) == {
        "decay": "uniform",
        "heldout": "",
        "checkpoints": [{"folder": folder, "weight": 0.5} for folder in folders],
        "merged": {"folder": str(output)},
    }


def test_a_mistake_is_one_line_and_nothing_is_written(
    run: Path,
    tiny_model_path: str,
    served_model_path: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "merged"
    nothing_out = tmp_path / "nothing_out"
    nothing_out.mkdir()
    settings = (run / "config.yaml").read_text()
    (nothing_out / "config.yaml").write_text(settings.replace("heldout_size: 10", "heldout_size: 0"))
    (tmp_path / "config.yaml").write_text("algorithm: {name: lpo}\n")
    cases = {
        f"checkpoints=[{tiny_model_path},{served_model_path}]": ["checkpoints: ", "do not match", "lm_head.weight"],
        f"run={run} last=1": ["run: ", "1 checkpoints are nothing to merge"],
        f"run={run} heldout={tmp_path / 'nowhere'}": ["heldout: ", "has no config.yaml"],
        f"run={run} heldout={tmp_path}": ["heldout: ", "is no run of evolpo sft", "algorithm"],
        f"run={run} heldout={nothing_out}": ["heldout: ", "holds nothing out"],
    }
    for arguments, parts in cases.items():
        code, out, err = evolpo(capsys, monkeypatch, "merge", *arguments.split(), f"output={output}")
        assert (code, out) == (2, ""), err
        mistake = err.splitlines()[-1]
        assert mistake.startswith("evolpo: ")
        assert all(part in mistake for part in parts), mistake
        assert not output.exists()
