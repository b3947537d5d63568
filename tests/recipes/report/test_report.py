import json
import math
import random
import re
from pathlib import Path

import pytest
from parsed_page import Page

from evolpo.recipes.report.report import write_report
from evolpo.recipes.report.samples import SHOWN_STEPS
from evolpo.rl.logs.metrics import LoggerConfig, MetricsWriter
from evolpo.rl.logs.samples import SampleRow, SampleTable

CONFIG = """\
experiment: sums
steps: {steps}
algorithm:
  name: lpo
  clip_low: 0.03
  clip_high: 0.03
trainer:
  learning_rate: 2.0e-05
"""
SUMMARY = {
    "accuracy_before": 0.09,
    "accuracy_after": 0.4,
    "accuracy_gain_ci95": [0.24, 0.38],
    "tokens_before": 11.2,
    "tokens_after": 37.4,
    "minutes": 9.4,
    "problems": 200,
    "model": "SmolLM2-135M-Instruct",
    "algorithm": "lpo",
    "seed": 0,
}


def figures(step: int, steps: int, noise: random.Random) -> dict[str, float]:
    """Metrics of a step that look like those of a run in which reasoning starts to pay."""
    gone = step / steps
    accuracy = 0.1 + 0.3 * (1 - math.exp(-3 * gone)) + noise.gauss(0, 0.03)
    rollout, train = noise.uniform(3, 5), noise.uniform(6, 8)
    return {
        "reward/mean": accuracy + 0.1 + noise.gauss(0, 0.02),
        "reward/std": 0.4,
        "reward/accuracy/mean": accuracy,
        "reward/length $x_1$ <b>/mean": 0.1 + noise.gauss(0, 0.02),
        "accuracy": accuracy,
        "response/tokens_mean": 11 + 26 * gone + noise.gauss(0, 1.5),
        "response/truncated": max(0, noise.gauss(0.04, 0.02)),
        "loss": noise.gauss(0, 0.01),
        "kl": 0.01 * gone + abs(noise.gauss(0, 0.001)),
        "entropy": 0.8 - 0.3 * gone + noise.gauss(0, 0.02),
        "clip/low": abs(noise.gauss(0.01, 0.004)),
        "clip/high": abs(noise.gauss(0.014, 0.004)),
        "ratio/mean": 1 + noise.gauss(0, 0.002),
        "ratio/max": 1.05 + abs(noise.gauss(0, 0.03)),
        "grad_norm": abs(noise.gauss(0.9, 0.2)),
        "lr": 2e-5 * min(1, step / 5),
        "logprob_gap/mean": abs(noise.gauss(0.01, 0.002)),
        "logprob_gap/max": abs(noise.gauss(0.15, 0.05)),
        "seconds/rollout": rollout,
        "seconds/reward": 0.3,
        "seconds/train": train,
        "seconds/sync": 0.2,
        "seconds/step": rollout + train + 0.9,
        "tokens_per_s": noise.gauss(310, 15),
        "memory/peak_gb": 6.1,
    }


def evaluation(step: int, steps: int) -> dict[str, float]:
    accuracy = 0.09 + 0.31 * (1 - math.exp(-3 * step / steps))
    return {
        "eval/accuracy": accuracy,
        "eval/accuracy_low": accuracy - 0.05,
        "eval/accuracy_high": accuracy + 0.05,
        "eval/tokens_mean": 11 + 26 * step / steps,
        "eval/pass@8": accuracy + 0.25,
        "eval/2 terms/accuracy": min(1.0, accuracy + 0.3),
        "eval/4 terms/accuracy": max(0.0, accuracy - 0.09),
    }


def sample(step: int, noise: random.Random, **changes) -> SampleRow:
    units = ["First, 42 + 17 = 59.\n", "Then 59 + 30 = 89. ", "So the sum is 89。 ", "The answer is \\boxed{89}."]
    units = units[: noise.randint(1, 4)]
    right = noise.random() < 0.5
    fields = {
        "step": step,
        "prompt_id": f"chain_sum-{noise.randint(0, 999)}",
        "difficulty": "3 terms",
        "prompt": "State the final answer to the following arithmetic problem: 42 + 17 + 30 =",
        "answer": "89",
        "response": "".join(units),
        "reward": 1.12 if right else 0.0,
        "advantage": 0.93 if right else -0.93,
        "breakdown": {"accuracy": float(right), "length": 0.12, "judge": None},
        "sentences": [(text, 9, noise.gauss(1.0, 0.025)) for text in units],
        "tokens": 9 * len(units),
        "finish_reason": noise.choice(["stop", "stop", "length"]),
        "logprob_gap": 0.011,
    }
    return SampleRow(**(fields | changes))


def fake_run(run: Path, steps: int, finished: bool = True) -> Path:
    noise = random.Random(0)
    with MetricsWriter(run, LoggerConfig(tensorboard=False)) as writer:
        for step in range(steps + 1):
            metrics = figures(step, steps, noise) if step else {}
            if step % max(1, steps // 6) == 0 or step == steps:
                metrics |= evaluation(step, steps)
            if step == 7:
                metrics |= {"grad_norm": float("nan"), "rows/skipped": 3}
            writer.log(step, metrics)
    table = SampleTable(run)
    table.add([sample(step, noise) for step in range(1, steps + 1) for _ in range(4)])
    table.save()
    (run / "config.yaml").write_text(CONFIG.format(steps=steps))
    if finished:
        (run / "summary.json").write_text(json.dumps(SUMMARY))
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Page:
    run = fake_run(tmp_path_factory.mktemp("outputs") / "sums" / "2026-11-22_10-00-00", steps=80)
    path = write_report(run)
    assert path == run / "report.html"
    return Page(path)


def test_the_headline_is_the_summary(finished):
    for text in (
        "sums",
        "finished 2026-11-22_10-00-00 · 80 steps · model SmolLM2-135M-Instruct · algorithm lpo · seed 0",
        "9.0% → 40.0%",
        "+31.0 points",
        "95% interval +24.0 to +38.0",
        "11.2 → 37.4",
        "+233.9%",
        "9.4 min",
        "200 problems",
    ):
        assert text in finished.text


def test_every_chart_is_drawn(finished):
    titles = [a["aria-label"] for a in finished.all("div") if a.get("role") == "img"]
    assert titles == [
        *("Reward", "Accuracy", "Response length"),
        *("Clipped units", "Importance ratio", "KL", "Log-probability gap", "Entropy", "Cut off"),
        *("Gradient norm", "Learning rate", "Loss"),
        *("Time of a step", "Throughput", "Memory"),
    ]
    assert len(finished.all("svg")) == len(titles)
    assert "pass@8 63.5%" in finished.text
    assert all("width" not in svg and "height" not in svg for svg in finished.all("svg"))


def test_experts_and_fp8_have_charts(tmp_path):
    run = tmp_path / "ling" / "2026-11-22_10-00-00"
    run.mkdir(parents=True)
    rows = [{"step": step, "time": 0.0, "experts/worst_violation": 2.0 / (step + 1)} for step in range(4)]
    for row in rows:
        row |= {"routing/same_tokens": 0.97, "routing/same_experts": 0.99}
    for layer, value in enumerate((0.001, 0.002, 0.25)):
        rows[0] |= {f"fp8/dy_t/layer_{layer}/underflow/max": value, f"fp8/dy_t/layer_{layer}/similarity/min": 0.999}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(write_report(run))
    titles = [a["aria-label"] for a in page.all("div") if a.get("role") == "img"]
    assert titles == ["Load of the experts", "Routing", "FP8 underflow", "FP8 similarity"]
    assert "97.0%" in page.text
    assert "dy_t 0.25" in page.text


def test_what_went_wrong_is_said(finished):
    assert "Not finite in 1 step, first at step 7: grad_norm." in finished.text
    assert "3 responses were left out of training." in finished.text


def test_difficulties_before_and_after(finished):
    last = 0.09 + 0.31 * (1 - math.exp(-3))
    assert f"2 terms39.0%{last + 0.3:.1%}+{100 * (last - 0.09):.1f}" in finished.text.replace(" 2 terms", "2 terms")
    assert "4 terms0.0%" in finished.text


def test_configuration_and_versions(finished):
    assert "clip_high: 0.03" in finished.text
    assert re.search(r"python 3\.\d+\.\d+ · .*torch \d", finished.text)


def test_the_page_needs_no_network(finished):
    for tag, attributes in finished.tags:
        assert tag not in ("link", "iframe", "img")
        assert not (tag == "script" and "src" in attributes)
        for name in ("href", "xlink:href", "src"):
            # samples.parquet lies beside the page
            assert (attributes.get(name) or "#").startswith("#") or attributes[name] == "samples.parquet"


def test_ids_are_unique_or_the_same_thing(finished):
    ids: dict[str, str] = {}
    for tag, attributes in finished.tags:
        if "id" in attributes:
            assert ids.setdefault(attributes["id"], tag) == tag
            assert tag in ("path", "clipPath", "clippath")


def test_samples_of_a_long_run_are_thinned_from_first_to_last(finished):
    steps = [int(a["data-step"]) for a in finished.all("div", "step")]
    assert len(steps) == SHOWN_STEPS
    assert steps[0] == 1
    assert steps[-1] == 80
    assert steps == sorted(set(steps))


def test_a_run_that_is_still_training(tmp_path):
    run = fake_run(tmp_path / "sums" / "now", steps=8, finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "rew')
    page = Page(write_report(run))
    assert "not finished now · 8 steps" in page.text
    assert "9.0% →" in page.text
    assert "no interval yet" in page.text


def test_an_empty_run(tmp_path):
    page = Page(write_report(tmp_path))
    assert "No step has been logged yet." in page.text
    assert page.all("svg") == []


def test_one_step(tmp_path):
    page = Page(write_report(fake_run(tmp_path / "run", steps=1)))
    assert len(page.all("svg")) == 15


def test_what_users_and_models_write_is_escaped(tmp_path):
    evil = "</pre><script>alert('x')</script><b>"
    with MetricsWriter(tmp_path, LoggerConfig(tensorboard=False)) as writer:
        writer.log(1, {f"reward/{evil}$_/mean": 1.0, f"eval/{evil}/accuracy": 0.5, evil: math.nan})
    table = SampleTable(tmp_path)
    table.add([sample(1, random.Random(0), prompt=evil, prompt_id=evil, answer=evil, sentences=[(evil, 3, 1.0)])])
    table.add([sample(1, random.Random(0), response=evil, sentences=[], breakdown={evil: 1.0}, difficulty=evil)])
    table.save()
    (tmp_path / "config.yaml").write_text(f'name: "{evil}"\n')
    (tmp_path / "summary.json").write_text(json.dumps({"model": evil}))
    page = Page(write_report(tmp_path))
    assert len(page.all("script")) == 1
    assert page.all("b") == [{}]  # the value in the legend of the one chart
    places = ["model", "warning", "legend", "table of difficulties", "configuration"]
    places += ["prompt", "prompt id", "answer", "sentence", "response", "component", "difficulty"]
    assert page.text.count(evil) == len(places)


def test_ratios_are_marked_by_their_distance_from_one(tmp_path):
    ratios = [1.0, 1.02, 1.04, 0.98, 0.95, None]
    table = SampleTable(tmp_path)
    table.add([sample(1, random.Random(0), sentences=[("Yes.\n", 2, ratio) for ratio in ratios])])
    table.save()
    (tmp_path / "config.yaml").write_text("algorithm: {clip_high: 0.03}\n")
    page = Page(write_report(tmp_path))
    assert [a["class"] for a in page.all("sup")] == ["r", "r up1", "r up2", "r down1", "r down2"]
    units = page.all("span", "s")
    assert [a["class"] for a in units] == ["s", "s odd"] * 3
    assert units[1]["title"] == "sentence 2: 2 tokens, ratio 1.0200"
    assert units[5]["title"] == "sentence 6: 2 tokens"


CURRICULUM = """\
data: {train: [{difficulty: low}, {difficulty: high}]}
rollout: {max_response_tokens: 64}
curriculum:
  stages:
    - {name: "shallow $_", mix: {high: 1.0, low: 3.0}, alpha: {low: 0.5}, max_response_tokens: 32, steps: 4}
    - {name: "", mix: {}, alpha: {high: 0.05, low: 0.5}, max_response_tokens: 0, pass_rate: 0.9, window: 5, steps: 0}
    - {name: deep, mix: {}, alpha: {}, max_response_tokens: 0, pass_rate: 0.0, window: 5, steps: 0}
"""
LEVEL_KEYS = ("eval/{}/accuracy", "eval/{}/tokens_mean", "accuracy/{}", "response/{}/tokens_mean")


def curriculum_run(run: Path, config: str = CURRICULUM) -> Page:
    rows: list[dict[str, float]] = [{"step": 0, "time": 0.0}]
    for step in range(1, 11):
        row = {"step": step, "time": 0.0, "accuracy": 0.5, "reward/length/mean": 0.1}
        row["curriculum/stage"] = 1.0 if step <= 4 else 2.0
        row |= {key.format(level): step / 10 for key in LEVEL_KEYS for level in ("low", "high")}
        rows.append(row)
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "config.yaml").write_text(config)
    return Page(write_report(run))


def test_a_curriculum_has_charts_with_its_stages(tmp_path):
    page = curriculum_run(tmp_path)
    titles = [a["aria-label"] for a in page.all("div") if a.get("role") == "img"]
    assert titles == [
        *("Reward", "Accuracy"),
        *("Pass rate", "Held-out accuracy", "Held-out length", "Training accuracy", "Training length"),
        "Length reward",
    ]
    assert page.text.count("low 100.0%high 100.0%") == 2  # the order is that of the data
    charts = page.text.split("Stages")[0]
    assert charts.count("shallow $_") == 1
    assert charts.count("stage 2") == 1
    assert "deep" not in charts  # never reached


def test_the_stages_are_described(tmp_path):
    text = curriculum_run(tmp_path).text
    stages = text.split("Stages")[1].split("Accuracy by difficulty")[0]
    for part in (
        "shallow $_1 to 432 tokensafter 4 stepslow 75%, high 25%low 0.5",
        "stage 25 to 1064 tokensat 90% over 5 stepsweights of the datalow 0.5, high 0.05",
        "deepnot reached64 tokenswith the runweights of the datathe reward's own",
    ):
        assert part in stages


def test_without_a_curriculum_there_is_nothing_of_it(finished):
    assert "Stages" not in finished.text
    assert "Pass rate" not in finished.text


def test_a_curriculum_whose_configuration_is_lost_still_has_charts(tmp_path):
    page = curriculum_run(tmp_path, config="")
    assert "Pass rate" in page.text
    assert "stage 2" in page.text
    assert "Stages" not in page.text
