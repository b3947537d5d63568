"""Whole runs on a tiny model with real vLLM and DeepSpeed: files, resume after kill -9, two ranks, dynamic sampling."""

import json
import sys
from pathlib import Path

import pytest
from processes import finish, kill_while_saving, run_folder, start, timeless, tiny_run
from safetensors.torch import load_file

from evolpo.rl.checkpoint import list_checkpoints
from evolpo.rl.logs.metrics import read_metrics
from evolpo.rl.logs.samples import read_samples

STEPS = 4
PLUGIN = """
from evolpo.rewards import Sample, sample_reward

@sample_reward
def vowels(sample: Sample) -> float:
    return sum(letter in "aeiou" for letter in sample.text) / max(len(sample.text), 1)

@sample_reward
def broken(sample: Sample) -> float:
    raise KeyError("no such thing")
"""


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    return tmp_path


def command(model: str, name: str, *extra: str) -> list[str]:
    return tiny_run(
        model, name, f"steps={STEPS}", "rollout.max_response_tokens=8", "algorithm.optimizer_steps=2", *extra
    )


@pytest.mark.timeout(600)
def test_a_run_and_its_twin_that_was_killed_while_saving(workplace: Path, served_model_path: str) -> None:
    whole = start(command(served_model_path, "whole"), workplace)
    killed = start(command(served_model_path, "killed"), workplace)
    kill_while_saving(killed, workplace, "killed", step=3)
    out, err = finish(whole)

    run = run_folder(workplace, "whole")
    assert out.splitlines()[-1].endswith(str(Path("outputs") / "whole" / run.name / "report.html"))
    assert f"step {STEPS}/{STEPS}" in err
    check_files(run)

    broken_run = run_folder(workplace, "killed")
    assert [step for step, _ in list_checkpoints(broken_run)][-1] == 2  # the third was never whole
    finish(start([sys.executable, "-m", "evolpo.recipes.cli", "train", f"resume={broken_run}"], workplace))

    for step in range(1, STEPS + 1):
        ours, theirs = (r / "checkpoints" / f"step_{step}" for r in (broken_run, run))
        for name in ("model.safetensors", "optimizer/rank_0.safetensors"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), f"step {step}: {name}"
        assert (
            json.loads((ours / "state.json").read_text())["prompts"]
            == (json.loads((theirs / "state.json").read_text())["prompts"])
        )
    assert timeless(read_metrics(broken_run / "metrics.jsonl")) == timeless(read_metrics(run / "metrics.jsonl"))
    assert read_samples(broken_run / "samples.parquet") == read_samples(run / "samples.parquet")
    prompts = [row.prompt_id for row in read_samples(run / "samples.parquet")]
    assert len(set(prompts)) == len(prompts) == 2 * STEPS  # an epoch is longer than the run: no prompt twice


def check_files(run: Path) -> None:
    """What a finished run leaves."""
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert "eval/accuracy" in rows[0]
    assert "eval/easy/accuracy" in rows[STEPS]
    for row in rows[1:]:
        assert row["logprob_gap/max"] < 1e-4  # rollout engine against trainer, after every weight update
        assert row["sync/seconds"] < 1.0
        assert row["groups/total"] == 2
        assert row["grad_norm"] > 0
    assert any(row["ratio/max"] > 1 for row in rows[1:])  # the second optimizer step of a rollout is off-policy
    summary = json.loads((run / "summary.json").read_text())
    wanted = {"accuracy_before", "accuracy_after", "accuracy_gain_ci95", "tokens_before", "tokens_after", "minutes"}
    assert wanted <= summary.keys()
    assert len(summary["accuracy_gain_ci95"]) == 2
    assert summary["problems"] == 6
    sample = read_samples(run / "samples.parquet")[0]
    assert "".join(text for text, _, _ in sample.sentences).replace("<|end|>", "") == sample.response
    assert sum(tokens for _, tokens, _ in sample.sentences) == sample.tokens
    assert "http" not in (run / "report.html").read_text().replace("http://www.w3.org", "").replace("https://", "")
    assert list((run / "tensorboard").iterdir())
    weights = load_file(run / "checkpoints" / f"step_{STEPS}" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.timeout(400)
def test_two_ranks_with_dynamic_sampling(workplace: Path, served_model_path: str) -> None:
    extra = ["processes=2", "algorithm=dapo", "trainer.zero_stage=2", "steps=2", "algorithm.optimizer_steps=1"]
    finish(start(command(served_model_path, "two", *extra), workplace))
    run = run_folder(workplace, "two")
    last = read_metrics(run / "metrics.jsonl")[-1]
    assert last["step"] == 2
    assert last["logprob_gap/max"] < 1e-4
    assert json.loads((run / "checkpoints" / "step_2" / "state.json").read_text())["world"] == 2
    assert json.loads((run / "summary.json").read_text())["problems"] == 6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_that_share_an_engine_train_as_with_one_each(workplace: Path, served_model_path: str) -> None:
    """Tokens, rewards and figures are those of an engine a rank; weights reach both parts after every update."""
    extra = ["processes=2", "steps=2", "algorithm.optimizer_steps=1", "trainer.zero_stage=2"]
    for name, ranks in (("own", 1), ("shared", 2)):
        words = [*extra, f"rollout.tensor_parallel={ranks}"]
        _, err = finish(start(command(served_model_path, name, *words), workplace), timeout=400)
        assert "Warning" not in err
    own, shared = (run_folder(workplace, name) for name in ("own", "shared"))
    rows = [read_metrics(run / "metrics.jsonl") for run in (own, shared)]
    assert [row["step"] for row in rows[1]] == [0, 1, 2]
    assert all(row["logprob_gap/max"] < 1e-4 for row in rows[1][1:])
    assert [row["reward/mean"] for row in rows[1][1:]] == [row["reward/mean"] for row in rows[0][1:]]
    samples = [read_samples(run / "samples.parquet") for run in (own, shared)]
    assert [one.response for one in samples[1]] == [one.response for one in samples[0]]
    judged = [(run / "evaluations" / "step_2.jsonl").read_text() for run in (own, shared)]
    assert judged[1] == judged[0]


def test_an_exception_in_a_reward_ends_the_run(workplace: Path, served_model_path: str) -> None:
    extra = "rewards.components=[{use: 'plugin:broken'}]"
    _, err = finish(start(command(served_model_path, "broken", extra), workplace), code=1)
    last = err.strip().splitlines()[-1]
    assert last.startswith("evolpo: ")
    assert "broken failed on" in last
    assert "KeyError" in last


def evaluate_command(model: str, name: str, *extra: str) -> list[str]:
    """`evolpo evaluate` on what `command` holds out."""
    arguments = command(model, name)
    fields = [
        field for field in arguments[4:] if not field.startswith(("steps", "prompts", "responses", "trainer", "algo"))
    ]
    return [*arguments[:3], "evaluate", *fields, "precision=fp32", *extra]


def test_a_model_is_evaluated_without_a_trainer(workplace: Path, served_model_path: str) -> None:
    extra = ["evaluation.samples=3", "evaluation.pass_at=[1,3]"]
    out, _ = finish(start(evaluate_command(served_model_path, "judged", *extra), workplace))
    run = run_folder(workplace, "judged")
    figures = json.loads((run / "evaluation.json").read_text())
    judged = [json.loads(line) for line in (run / "judged.jsonl").read_text().splitlines()]
    assert len(judged) == 6
    assert figures["eval/accuracy"] == pytest.approx(sum(one["correct"] / one["samples"] for one in judged) / 6)
    assert figures["eval/pass@1"] <= figures["eval/pass@3"]
    lines = out.splitlines()
    assert Path(lines[-1]) == run.relative_to(workplace)
    assert any(line.startswith("eval/accuracy ") for line in lines)


def test_two_engines_share_the_problems_and_change_no_figure(workplace: Path, served_model_path: str) -> None:
    runs = []
    for name in ("one_engine", "two_engines"):
        processes = "processes=2" if name == "two_engines" else "processes=1"
        out, _ = finish(start(evaluate_command(served_model_path, name, processes), workplace))
        assert out.count("eval/accuracy ") == 1  # rank 0 alone speaks
        runs.append(run_folder(workplace, name))
    assert len({(run / "judged.jsonl").read_text() for run in runs}) == 1
    assert len({(run / "evaluation.json").read_text() for run in runs}) == 1
