"""Whole runs whose responses come from a fleet: what they train, and what they survive."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import finish, run_folder, start, timeless, tiny_run

from evolpo.recipes.training.record import read_batch
from evolpo.rl.logs.metrics import read_metrics
from evolpo.rl.logs.samples import read_samples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 4
PLUGIN = """
import os, time
from evolpo.rewards import Sample, sample_reward

@sample_reward
def vowels(sample: Sample) -> float:
    return sum(letter in "aeiou" for letter in sample.text) / max(len(sample.text), 1)
"""


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    return tmp_path


def command(model: str, name: str, *extra: str) -> list[str]:
    fields = ("rollout.max_response_tokens=24", "rollout.fleet.threads=1", "logger.samples_per_step=100")
    return tiny_run(model, name, f"steps={STEPS}", *fields, *extra)


def test_a_fleet_of_one_without_staleness_trains_as_the_engine_in_the_process(
    workplace: Path, served_model_path: str
) -> None:
    fleet = start(command(served_model_path, "fleet", "rollout.fleet.engines=1"), workplace)
    finish(fleet)
    finish(start(command(served_model_path, "own"), workplace))
    ours, theirs = run_folder(workplace, "fleet"), run_folder(workplace, "own")
    for step in range(1, STEPS + 1):
        for name in ("model.safetensors", "optimizer/rank_0.safetensors"):
            paths = [run / "checkpoints" / f"step_{step}" / name for run in (ours, theirs)]
            assert paths[0].read_bytes() == paths[1].read_bytes(), f"step {step}: {name}"
    assert read_samples(ours / "samples.parquet") == read_samples(theirs / "samples.parquet")
    assert (ours / "heldout" / "step_0.jsonl").exists() == (theirs / "heldout" / "step_0.jsonl").exists()
    for mine, own in zip(
        timeless(read_metrics(ours / "metrics.jsonl")), timeless(read_metrics(theirs / "metrics.jsonl")), strict=True
    ):
        assert own == {name: mine[name] for name in own}


AHEAD = ("rollout.fleet.engines=2", "rollout.fleet.max_staleness=1", "algorithm.correction=tis", "steps=6")


def test_two_ranks_ahead_of_training_killed_and_resumed_and_replayed(workplace: Path, served_model_path: str) -> None:
    before = set(Path("/dev/shm").iterdir())
    killed = start(
        command(served_model_path, "ahead", *AHEAD, "processes=2", "trainer.zero_stage=3", "logger.record=true"),
        workplace,
    )
    deadline = time.monotonic() + 300
    while not list(workplace.glob("outputs/ahead/*/checkpoints/step_3")):
        assert killed.poll() is None, killed.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    orphans = psutil.Process(killed.pid).children(recursive=True)
    for rank in psutil.Process(killed.pid).children():
        os.kill(rank.pid, signal.SIGKILL)
    killed.communicate(timeout=60)

    run = run_folder(workplace, "ahead")
    waiting = json.loads((max(run.glob("checkpoints/step_*")) / "state.json").read_text())["ahead"]["waiting"]
    assert len(waiting) == 2  # a step's groups are on their way while it trains on those before
    _, gone = psutil.wait_procs(orphans, timeout=90)
    assert not [one for one in gone if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert set(Path("/dev/shm").iterdir()) <= before

    finish(start([sys.executable, "-m", "evolpo.recipes.cli", "train", f"resume={run}"], workplace))
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(7))
    assert max(row["staleness/response_max"] for row in rows[1:]) == 1.0
    for row in rows[1:]:
        assert row["staleness/response_max"] <= 1
        assert row["staleness/token_mean"] <= 1
        assert row.get("logprob_gap/age_0", 0.0) < 1e-4
        assert {"logprob_gap/age_0", "logprob_gap/age_1"} & row.keys()
        assert not {name for name in row if name.startswith("staleness/tokens_")} - {
            "staleness/tokens_0",
            "staleness/tokens_1",
        }
        assert row["groups/total"] == 2
        assert row["fleet/deaths"] == 0
    taken = [
        group.prompt.id
        for step in range(1, 7)
        for rank in range(2)
        for group in read_batch(run, step, rank, world=2)[0]
    ]
    assert len(set(taken)) == len(taken) == 12  # none twice
    assert {one["prompt"].split()[0] for one in waiting} <= set(taken)  # none lost

    # What was recorded, before and after the kill, trains the same weights again without an engine.
    again = [sys.executable, "-m", "evolpo.recipes.cli", "train", f"replay={run}", "name=again"]
    out, err = finish(start(again, workplace))
    assert "starting vLLM" not in err
    assert out.splitlines()[-1].endswith("report.html")
    replayed = run_folder(workplace, "again")
    for name in ("model.safetensors", "optimizer/rank_0.safetensors", "optimizer/rank_1.safetensors"):
        paths = [one / "checkpoints" / "step_6" / name for one in (run, replayed)]
        assert paths[0].read_bytes() == paths[1].read_bytes(), name
