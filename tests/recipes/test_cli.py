"""The command line: help, checks without a model, and one clear line for every mistake."""

import json
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from evolpo.recipes import cli

SMALL = ["data.train=[{kind: reasoning_gym, family: chain_sum, size: 50}]", "data.heldout_size=10"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    GlobalHydra.instance().clear()
    old = sys.argv
    sys.argv = ["evolpo", *arguments]
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = old
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("command", ["train", "sft", "evaluate", "compare", "model path", "bench step"])
def test_help_and_configuration(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, *command.split(), "--help")
    assert code == 0
    assert "Override anything" in out
    code, out, _ = run(capsys, *command.split(), "--cfg", "job")
    assert code == 0
    assert "model:" in out


def test_usage_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(command in out for command in cli.COMMANDS)


def test_dry_run_checks_data_rewards_and_model(
    capsys: pytest.CaptureFixture[str], tiny_model_path: str, tmp_path: Path
) -> None:
    code, out, err = run(
        capsys, "train", "--dry-run", f"model.path={tiny_model_path}", f"output_dir={tmp_path / 'out'}", *SMALL
    )
    assert (code, err) == (0, "")
    assert "10 held out, none shared" in out
    assert "8 prompts x 8 responses = 64 responses a step" in out
    assert "equal to the model's own within" in " ".join(out.split())
    assert not list((tmp_path / "out").iterdir())


def bad_files(folder: Path) -> dict[str, str]:
    """Files with mistakes, by name."""
    (folder / "broken.jsonl").write_text('{"prompt": "1 + 1", "answer": "2"}\n{"prompt": \n')
    (folder / "columns.jsonl").write_text(json.dumps({"question": "1 + 1", "answer": "2"}) + "\n")
    (folder / "empty_model").mkdir()
    (folder / "a_file").touch()
    return {"folder": str(folder)}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("fly", ["command", "'fly'", "train"]),
        ("train algorithm.name=foo", ["algorithm.name", "'foo'", "lpo, grpo, dapo"]),
        ("train algorithm=foo", ["algorithm", "foo", "lpo"]),
        ("train algorithm.units=words", ["algorithm.units", "words"]),
        ("train nonsense=1", ["nonsense"]),
        ("train trainer.learning_rat=1", ["trainer.learning_rat"]),
        ("train steps=many", ["steps", "many"]),
        ("train steps=0", ["steps", "0"]),
        ("train experiment=nothing", ["experiment", "nothing"]),
        ("train responses_per_prompt=1", ["responses_per_prompt", "at least 2"]),
        ("train prompts_per_step=3 processes=2", ["prompts_per_step", "multiple of 2"]),
        ("train trainer.tokens_per_micro_batch=100", ["trainer.tokens_per_micro_batch", "at least"]),
        ("train algorithm.optimizer_steps=100", ["algorithm.optimizer_steps", "64"]),
        (
            "train model=ling_nano rollout.max_response_tokens=2000 trainer.tokens_per_micro_batch=9000",
            ["rollout.max_response_tokens: 2000", "data.max_prompt_tokens=128", "2048"],
        ),
        ("train trainer.zero_stage=4", ["trainer.zero_stage", "0, 1, 2, 3"]),
        ("train rewards.components.0.use=kindness", ["rewards.components[0].use", "kindness", "reasoning_gym"]),
        ("train rewards.components.0.use=nowhere:f", ["rewards.components[0].use", "nowhere"]),
        ("train data.train.0.family=chan_sum", ["data.train[0].family", "chain_sum"]),
        ("train data.train=[{kind: jsonl, path: {folder}/none.jsonl}]", ["data.train[0].path", "none.jsonl"]),
        ("train data.train=[{kind: jsonl, path: {folder}/broken.jsonl}]", ["data.train[0].path", "line 2"]),
        ("train data.train=[{kind: jsonl, path: {folder}/columns.jsonl}]", ["prompt_column", "question"]),
        ("train model.path={folder}/nowhere", ["model.path", "does not exist"]),
        ("train model.path={folder}/empty_model", ["model.path", "config.json", "safetensors"]),
        ("train model.name=gpt5", ["model.name", "smollm2"]),
        ("train output_dir={folder}/a_file", ["output_dir", "cannot be written"]),
        ("train resume={folder}", ["resume", "no checkpoint"]),
        ("train evaluation.pass_at=[2]", ["evaluation.pass_at", "evaluation.samples"]),
        ("sft direct_share=2", ["direct_share"]),
        ("apexeval", ["checkpoints", "run=FOLDER"]),
        ("apexeval run={folder}", ["run", "holds no checkpoint"]),
        ("apexeval checkpoints=[{folder}/empty_model]", ["checkpoints", "no model folder", "config.json"]),
        ("apexeval run=a evaluation.pass_at=[32]", ["evaluation.pass_at", "evaluation.samples"]),
        ("apexeval resume={folder}", ["resume", "config.yaml"]),
        ("apexeval resume={folder} seed=1", ["resume", "leave out seed=1"]),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: str, parts: list[str]
) -> None:
    folder = bad_files(tmp_path)["folder"]
    words = [word.replace("{folder}", folder) for word in arguments.split(" ")]
    words = [" ".join(words)[len(words[0]) + 1 :]] if "[{" in arguments else words[1:]
    command = arguments.split(" ")[0]
    dry = ["dry_run=true"] if command == "train" else []
    code, out, err = run(capsys, command, *words, *dry)
    assert code == 2
    assert out == ""
    assert err.startswith("evolpo: ")
    assert err.count("\n") == 1
    assert all(part in err for part in parts), err
