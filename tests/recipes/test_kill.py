"""A run that is killed, ended, crowded out or out of space: nothing is lost, and one line says how it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evolpo.rl.checkpoint import list_checkpoints
from evolpo.rl.logs.metrics import read_metrics
from evolpo.rl.logs.samples import read_samples

Process = subprocess.Popen[str]
STEPS = 3
PLUGIN = """
import os, time
from evolpo.rewards import Sample, sample_reward

@sample_reward
def vowels(sample: Sample) -> float:
    if os.path.exists("slow"):
        open("scoring", "w").close()
        time.sleep(60)
    return sum(letter in "aeiou" for letter in sample.text) / max(len(sample.text), 1)
"""
# Python imports this file at its start: the process kills itself before or after the N-th call of a function.
KILLER = """
import importlib, importlib.abc, os, signal, sys
POINT = os.environ.get("KILL_AT", "")

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        module, function, when, number = POINT.split(":")
        if name != module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(made):
            load(made)
            owner = made
            *outer, last = function.split(".")
            for one in outer:
                owner = getattr(owner, one)
            real, calls = getattr(owner, last), []
            def deadly(*args, **kwargs):
                calls.append(1)
                if len(calls) == int(number) and when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                result = real(*args, **kwargs)
                if len(calls) == int(number):
                    os.kill(os.getpid(), signal.SIGKILL)
                return result
            setattr(owner, last, deadly)
        spec.loader.exec_module = exec_module
        return spec

if POINT:
    import importlib.util
    sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "sitecustomize.py").write_text(KILLER)
    lines = [json.dumps({"prompt": f"{a} + {b} =", "answer": str(a + b)}) for a in range(6) for b in range(6)]
    (tmp_path / "sums.jsonl").write_text("\n".join(lines))
    return tmp_path


def command(model: str, name: str, *extra: str) -> list[str]:
    return [
        "train",
        f"name={name}",
        f"model.path={model}",
        f"steps={STEPS}",
        "prompts_per_step=2",
        "responses_per_prompt=4",
        "data.train=[{kind: jsonl, path: sums.jsonl}]",
        "data.heldout_size=4",
        "data.max_prompt_tokens=200",
        "rollout.max_response_tokens=8",
        "rollout.kv_cache_gb=0.25",
        "rewards.components=[{use: 'plugin:vowels'}]",
        "rewards.timeout_s=100",
        "trainer.learning_rate=0.01",
        "trainer.precision=fp32",
        "trainer.tokens_per_micro_batch=256",
        "trainer.save_every=2",
        "trainer.keep_checkpoints=0",
        *extra,
    ]


def start(arguments: list[str], folder: Path, kill_at: str = "", directory: Path | None = None) -> Process:
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}" if kill_at else os.environ.get("PYTHONPATH", "")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "KILL_AT": kill_at}
    return subprocess.Popen(
        [sys.executable, "-m", "evolpo.recipes.cli", *arguments],
        cwd=directory or folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: Process, code: int = 0, within: float = 280) -> str:
    _, err = process.communicate(timeout=within)
    assert process.returncode == code, err[-3000:]
    return err


def run_folder(folder: Path, name: str) -> Path:
    [run] = (folder / "outputs" / name).iterdir()
    return run


def last_line(err: str) -> str:
    [line] = [line for line in err.splitlines() if line.startswith("evolpo: ")]
    return line


def timeless(run: Path) -> list[dict[str, object]]:
    """Metrics without what a clock measured."""
    clocks = ("seconds", "time", "tokens_per_s", "sync/")
    rows = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith(clocks) and "seconds" not in k} for row in rows]


def assert_same(run: Path, whole: Path) -> None:
    """Metrics, samples, verdicts and weights of two runs are equal."""
    assert timeless(run) == timeless(whole)
    assert [row["step"] for row in timeless(run)] == list(range(STEPS + 1))
    assert read_samples(run / "samples.parquet") == read_samples(whole / "samples.parquet")
    for step in (0, STEPS):
        name = f"evaluations/step_{step}.jsonl"
        assert (run / name).read_text() == (whole / name).read_text()
    for name in ("model.safetensors", "optimizer/rank_0.safetensors"):
        place = f"checkpoints/step_{STEPS}/{name}"
        assert (run / place).read_bytes() == (whole / place).read_bytes(), name


POINTS = [
    "evolpo.recipes.training.evaluation:evaluate_heldout:before:1",  # before anything is measured
    "evolpo.rl.trainer:Trainer.update:after:1",  # before the first checkpoint
    "evolpo.rl.logs.metrics:MetricsWriter.log:after:3",  # step 2 is logged and not saved
    "evolpo.rl.logs.samples:SampleTable.save:after:1",  # its samples are saved, its checkpoint not begun
    "evolpo.rl.checkpoint:sync_to_disk:before:3",  # in the middle of the checkpoint
    "evolpo.rl.checkpoint:write_checkpoint:after:1",  # right after it
    "evolpo.rl.trainer:Trainer.update:after:3",  # in the last step
    "evolpo.recipes.report.report:write_report:before:1",  # all is done but the report
]


@pytest.mark.timeout(1800)
def test_killed_at_any_point_a_run_ends_as_if_nothing_had_happened(workplace: Path, served_model_path: str) -> None:
    finish(start(command(served_model_path, "whole"), workplace))
    whole = run_folder(workplace, "whole")
    for number, point in enumerate(POINTS):
        name = f"killed_{number}"
        finish(start(command(served_model_path, name), workplace, point), code=-signal.SIGKILL)
        run = run_folder(workplace, name)
        finish(start(["train", f"resume={run}"], workplace))
        assert_same(run, whole)


def wait_for(path: Path, process: Process) -> None:
    deadline = time.monotonic() + 250
    while not path.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.02)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_saves_the_last_finished_step(workplace: Path, served_model_path: str, ranks: int) -> None:
    extra = [f"processes={ranks}", "trainer.save_every=100"]
    finish(start(command(served_model_path, "whole", *extra), workplace))
    whole = run_folder(workplace, "whole")

    process = start(command(served_model_path, "ended", *extra), workplace)
    wait_for_step(workplace, "ended", 1, process)
    (workplace / "slow").touch()  # the next step is stuck in its rewards
    wait_for(workplace / "scoring", process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    line = last_line(finish(process, code=143))
    assert time.monotonic() - began < 40
    (workplace / "slow").unlink()
    run = run_folder(workplace, "ended")
    [(step, _)] = list_checkpoints(run)
    assert step in (1, 2)
    assert f"step {step} is saved" in line
    assert line.endswith(f"resume={run.relative_to(workplace)} goes on")
    finish(start(["train", f"resume={run}", *extra[:1]], workplace))
    assert_same(run, whole)


def wait_for_step(folder: Path, name: str, step: int, process: Process) -> None:
    """Wait until a step is logged."""
    deadline = time.monotonic() + 250
    while time.monotonic() < deadline:
        files = list(folder.glob(f"outputs/{name}/*/metrics.jsonl"))
        if files and len(files[0].read_text().splitlines()) > step:
            return
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.01)
    raise AssertionError("no such step")


@pytest.mark.timeout(900)
def test_one_run_has_one_process_and_goes_on_from_anywhere(workplace: Path, served_model_path: str) -> None:
    """Relative paths, a plugin beside the user, a link to the run, and a second process while the first works."""
    (workplace / "model").symlink_to(served_model_path)
    finish(start(command("model", "whole"), workplace))
    whole = run_folder(workplace, "whole")

    process = start(command("model", "crowded"), workplace)
    wait_for_step(workplace, "crowded", 1, process)
    (workplace / "slow").touch()
    wait_for(workplace / "scoring", process)
    run = run_folder(workplace, "crowded")
    second = last_line(finish(start(["train", f"resume={run}"], workplace), code=2))
    assert f"process {process.pid} on " in second
    process.kill()
    process.communicate()
    (workplace / "slow").unlink()

    elsewhere = workplace / "a folder elsewhere ü"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(run)
    finish(start(["train", "resume=link"], workplace, directory=elsewhere))
    assert_same(run, whole)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["link"]


@pytest.mark.timeout(600)
def test_what_resume_cannot_honour_is_refused(workplace: Path, served_model_path: str) -> None:
    finish(start(command(served_model_path, "one", "steps=2", "algorithm=grpo"), workplace))
    run = run_folder(workplace, "one")
    refused = {
        "algorithm=dapo": ["algorithm", "algorithm=grpo"],
        "experiment=ling_nano_arithmetic": ["experiment"],
        "seed=3": ["seed", "keeps its own (0)"],
        "name=other": ["name", "one"],
        "model.path=elsewhere": ["model.path"],
        "data.heldout_size=5": ["data.heldout_size"],
        "data.train=[{kind: jsonl, path: sums.jsonl, weight: 2}]": ["data.train"],
        "steps=1": ["steps", "2 that are done"],
        "trainer.learning_rat=1": ["trainer.learning_rate"],
    }
    for word, parts in refused.items():
        line = last_line(finish(start(["train", f"resume={run}", word], workplace), code=2))
        assert all(part in line for part in parts), line
    # What the run was started with is no change; nor is a path that has moved.
    (workplace / "sums.jsonl").rename(workplace / "moved.jsonl")
    (workplace / "elsewhere").mkdir()
    (workplace / "moved.jsonl").rename(workplace / "elsewhere" / "sums.jsonl")
    same = [
        "algorithm=grpo",
        "data.train=[{kind: jsonl, path: elsewhere/sums.jsonl}]",
        "steps=3",
        "trainer.save_every=1",
    ]
    finish(start(["train", f"resume={run}", *same], workplace))
    finish(start(["train", f"resume={run}"], workplace))  # what was changed then counts from then on
    assert [step for step, _ in list_checkpoints(run)] == [2, 3]
