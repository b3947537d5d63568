"""`resume=` on a run with a damaged file: one line, exit code 2, the file and the way out; and the way out works."""

import json
from pathlib import Path

import pytest
from command_line import run as command

from evolpo.rl.checkpoint import list_checkpoints


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: str) -> Path:
    """A run of `evolpo sft` with checkpoints of steps 1 and 2."""
    from evolpo.model import ModelConfig
    from evolpo.recipes.config import SftConfig
    from evolpo.recipes.sft import sft
    from evolpo.rl.training.config import TrainerConfig

    folder = tmp_path_factory.mktemp("small")
    lines = [json.dumps({"prompt": f"{a} + {a} =", "response": str(2 * a)}) for a in range(8)]
    (folder / "sums.jsonl").write_text("\n".join(lines))
    trainer = TrainerConfig(precision="fp32", tokens_per_micro_batch=512, save_every=1, keep_checkpoints=0)
    config = SftConfig(
        output_dir=str(folder / "outputs"),
        steps=2,
        examples_per_step=2,
        path=str(folder / "sums.jsonl"),
        model=ModelConfig(path=tiny_model_path),
        trainer=trainer,
    )
    return sft(config).parent


def spoil(file: Path, kind: str) -> None:
    content = bytearray(file.read_bytes())
    file.unlink()
    if kind == "flipped":
        content[len(content) // 2] ^= 4
    if kind == "folder":
        file.mkdir()
    elif kind != "missing":
        file.write_bytes({"empty": b"", "cut": content[: len(content) // 3], "flipped": content}[kind])


FILES = [
    "checkpoints/step_2/model.safetensors",
    "checkpoints/step_2/optimizer/rank_0.safetensors",
    "checkpoints/step_2/state.json",
    "checkpoints/step_2/config.json",
    "checkpoints/step_2/tokenizer.json",
    "checkpoints/step_2/tokenizer_config.json",
    "config.yaml",
    "metrics.jsonl",
    "start.json",
]
BEGUN_ANEW = ("metrics.jsonl", "start.json")


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "flipped", "folder"])
def test_a_damaged_file_is_one_line_with_a_way_out(
    small_run: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    for name in FILES:
        if kind == "missing" and name in BEGUN_ANEW:
            continue
        file = small_run / name
        content = file.read_bytes()
        spoil(file, kind)
        try:
            code, out, err = command(capsys, "sft", f"resume={small_run}", "steps=3")
        finally:
            file.rmdir() if file.is_dir() else file.unlink(missing_ok=True)
            file.write_bytes(content)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert file.name in err
        if name.startswith("checkpoints"):
            assert err.endswith(f"resume={small_run}/checkpoints/step_1\n")


def test_a_bit_anywhere_in_how_a_run_was_started(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = small_run / "start.json"
    content = file.read_bytes()
    try:
        for place in range(0, len(content), max(1, len(content) // 40)):
            file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            code, out, err = command(capsys, "sft", f"resume={small_run}", "steps=3")
            assert (code, out, err.count("\n")) == (2, "", 1), (place, err)
            assert "start.json" in err
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("name", BEGUN_ANEW)
def test_what_reads_well_and_was_never_written(small_run: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Lines of a log twice; a start that says nothing of its checksum, and so of the configuration."""
    file = small_run / name
    content = file.read_bytes()
    try:
        file.write_bytes(content * 2 if name == "metrics.jsonl" else b'{"directory": "/"}')
        code, out, err = command(capsys, "sft", f"resume={small_run}", "steps=3")
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert name in err
    finally:
        file.write_bytes(content)


def test_models_of_a_damaged_run_are_named_by_whoever_reads_them(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = small_run / "checkpoints" / "step_2"
    file = two / "model.safetensors"
    content = file.read_bytes()
    spoil(file, "flipped")
    calls = {
        "merge": [f"run={small_run}", f"output={tmp_path / 'merged'}"],
        "apexeval": [f"run={small_run}", f"output_dir={tmp_path}"],
        "model check": [str(two)],
        "evaluate": [f"model.path={two}", f"output_dir={tmp_path}"],
        "sft": [f"model.path={two}", f"output_dir={tmp_path}"],
    }
    try:
        for name, words in calls.items():
            code, _, err = command(capsys, *name.split(), *words)
            line = [one for one in err.splitlines() if one.startswith("evolpo: ")][-1]
            assert code == 2, name
            assert f"{file} is not what was written (its checksum differs)" in line
            assert f"{small_run}/checkpoints/step_1" in line
    finally:
        file.write_bytes(content)
    assert not (tmp_path / "merged").exists()


def test_the_older_checkpoint_goes_on_and_replaces_the_damaged_one(
    small_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = small_run / "checkpoints" / "step_2"
    (two / "state.json").unlink()
    (small_run / "metrics.jsonl").unlink()
    code, _, err = command(capsys, "sft", f"resume={small_run}/checkpoints/step_1")
    assert code == 0
    assert "metrics.jsonl is missing: it begins anew here" in err
    assert [step for step, _ in list_checkpoints(small_run)] == [1, 2]
    code, _, err = command(capsys, "sft", f"resume={small_run}")
    assert code == 0, err
