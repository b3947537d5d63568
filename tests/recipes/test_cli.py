"""The command line: help, checks without a model, and one clear line for every mistake."""

import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from command_line import run

from evolpo.recipes import cli

SMALL = [
    "data.train=[{kind: reasoning_gym, family: chain_sum, size: 50}]",
    "data.heldout_size=10",
    "data.max_prompt_tokens=200",
]


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
    (folder / "columns.jsonl").write_text(json.dumps({"riddle": "1 + 1", "answer": "2"}) + "\n")
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
        ("train trainer.learning_rat=1", ["trainer.learning_rat", "did you mean trainer.learning_rate?"]),
        ("train learning_rate=1", ["learning_rate", "did you mean trainer.learning_rate?"]),
        ("train +extra=1", ["extra"]),
        ("train data=null", ["data", "cannot be empty"]),
        ("train trainer=null", ["trainer", "cannot be empty"]),
        ("train seed=-1", ["seed", "-1"]),
        ("train steps=1e400", ["steps", "a whole number"]),
        ("train trainer.learning_rate=nan", ["trainer.learning_rate", "not finite"]),
        ("train prompts_per_step=2000000000", ["prompts_per_step", "memory"]),
        ("train rollout.kv_cache_gb=1e9", ["rollout.kv_cache_gb", "more than"]),
        ("train name=../../escape", ["name", "'../../escape'"]),
        ("train name=/tmp/elsewhere", ["name", "no name of a folder"]),
        ("train evaluation.component=taste", ["evaluation.component", "'taste'", "reasoning_gym"]),
        ("train --config {folder}/none.yaml", ["--config", "none.yaml", "evolpo init"]),
        ("init a-b", ["name", "'a-b'"]),
        ("train steps=many", ["steps", "many"]),
        ("train steps=0", ["steps", "0"]),
        ("train experiment=nothing", ["experiment", "nothing"]),
        ("train responses_per_prompt=1", ["responses_per_prompt", "at least 2"]),
        ("train prompts_per_step=3 processes=2", ["prompts_per_step", "multiple of 2"]),
        ("train rollout.tensor_parallel=0", ["rollout.tensor_parallel", "less than 1"]),
        ("train processes=1 rollout.tensor_parallel=2", ["rollout.tensor_parallel", "engines of 2 ranks", "the 1 of"]),
        ("train processes=4 rollout.tensor_parallel=3", ["rollout.tensor_parallel", "divisor of 4", "multiple of 3"]),
        (
            "train model=ling_nano processes=8 rollout.tensor_parallel=8",
            ["rollout.tensor_parallel: 8", "num_attention_heads=4", "4 does"],
        ),
        ("compare algorithms=[lpo,grpo] rollout.tensor_parallel=2", ["rollout.tensor_parallel", "set 1"]),
        ("train trainer.precision=int4", ["trainer.precision: int4", "bitsandbytes", "bf16", "model.lora.rank=16"]),
        ("evaluate precision=nf4", ["precision: nf4", "bitsandbytes", "give bf16"]),
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
        ("train data.train=[{kind: jsonl, path: {folder}/columns.jsonl}]", ["prompt_column", "riddle"]),
        ("train model.path={folder}/nowhere", ["model.path", "does not exist"]),
        ("train model.path={folder}/empty_model", ["model.path", "config.json", "safetensors"]),
        ("train model.name=gpt5", ["model.name", "smollm2"]),
        ("train output_dir={folder}/a_file", ["output_dir", "cannot be written"]),
        ("train resume={folder}", ["resume", "no checkpoint"]),
        ("train resume={folder}/a_file", ["resume", "no checkpoint"]),
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


BARS = """
from evolpo.recipes.cli import quiet_libraries
quiet_libraries()
import datasets.utils, huggingface_hub.utils, tqdm.auto, transformers.utils.logging
for kind in (datasets.utils.tqdm, huggingface_hub.utils.tqdm, tqdm.auto.tqdm, transformers.utils.logging.tqdm):
    for _ in kind([1], desc=f"bar of {kind.__module__}"):
        pass
"""


def test_bars_of_libraries_are_for_terminals() -> None:
    clean = {name: value for name, value in os.environ.items() if "DISABLE" not in name}
    log = subprocess.run([sys.executable, "-c", BARS], env=clean, stderr=subprocess.PIPE, text=True, check=True)
    assert "bar of" not in log.stderr
    terminal, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen([sys.executable, "-c", BARS], env=clean, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while chunk := read_terminal(terminal):
            shown += chunk
    os.close(terminal)
    assert process.returncode == 0
    assert shown.count(b"100%") == 4


def read_terminal(terminal: int) -> bytes:
    """What comes from a terminal next; nothing once nobody writes to it any more, which Linux reports as an error."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def test_the_command_line_loads_nothing_that_a_command_needs() -> None:
    heavy = {"numpy", "torch", "asyncio"}
    code = f"import sys, evolpo.recipes.cli as cli; cli.usage(); print(*sorted({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr
