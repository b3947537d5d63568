"""Makes comparison.html, comparison.json and comparison.png: what a comparison of algorithms found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evolpo.recipes.compare.charts import charts, looks, write_picture
from evolpo.recipes.compare.costs import minutes, sampled_tokens
from evolpo.recipes.compare.results import LEVEL_SHARE, AlgorithmResults, Results, results
from evolpo.recipes.compare.runs import ComparedRun
from evolpo.recipes.compare.statistics import REPETITIONS, Estimate
from evolpo.recipes.drawing.charts import percent_of
from evolpo.recipes.drawing.pages import points, render
from evolpo.rl.logs.files import write_json
from evolpo.rl.losses import LOSSES

TABLES = {
    "published": ("Published clip ranges", "Every algorithm at the clip range of its paper."),
    "tuned": ("Tuned clip ranges", "Every algorithm at the best clip range of a small search, as large for each."),
}
"""Heading and note of each table, in the order of the page."""
IDENTITY = ("name", "output_dir", "seed", "resume")
"""Fields that tell runs apart and are no setting of an algorithm."""
FEW_SEEDS = 5
"""With fewer, the page warns that intervals are too narrow."""


def write_comparison(
    runs: Sequence[ComparedRun],
    output: Path,
    title: str,
    command: str,
    versions: Sequence[tuple[str, str]],
) -> Path:
    """Write page, picture and rows of a comparison into a folder, each replacing an older one whole.

    With runs of two tables, `comparison.png` shows the first, and `comparison_tuned.png` the tuned ones.

    Args:
        runs: all runs, failed and pending ones included, in the order in which algorithms are to be shown.
        output: folder; made if missing.
        title: of the page.
        command: what the user called, to be called again.
        versions: names and versions of the packages with which the runs were made.

    Returns:
        Path of the page.
    """
    output.mkdir(parents=True, exist_ok=True)
    how = looks([run.algorithm for run in runs])
    tables = [results(table, part) for table in TABLES if (part := [run for run in runs if run.table == table])]
    for index, table in enumerate(tables):
        write_picture(output / ("comparison.png" if index == 0 else f"comparison_{table.table}.png"), table, how)
    write_json(output / "comparison.json", [row for table in tables for row in rows(table)])
    return render(
        Path(__file__).with_name("compare.html"),
        output / "comparison.html",
        title=title,
        command=command,
        versions=versions,
        tables=[(table, *TABLES[table.table], headline(table), caveats(table), charts(table, how)) for table in tables],
        absent=[run for run in runs if run.status != "ok"],
        counts={status: sum(run.status == status for run in runs) for status in ("ok", "failed", "pending")},
        differences={table.table: differences(table) for table in tables},
        looks=how,
        repetitions=REPETITIONS,
        level_share=LEVEL_SHARE,
        share=share,
        chance=chance,
        change=change,
        over=over,
    )


def headline(table: Results) -> str:
    """What the table shows, in a sentence that claims no more than the intervals do."""
    ranked = [(one.name, one.accuracy) for one in table.algorithms if one.accuracy]
    ranked.sort(key=lambda pair: -pair[1].value)
    if not ranked:
        return "No run has finished with a held-out accuracy yet."
    (best, accuracy), *others = ranked
    limits = accuracy.interval and [f"{100 * limit:.1f}" for limit in accuracy.interval]
    interval = f" (95% interval {limits[0]} to {limits[1]})" if limits else ""
    ends = f"{best} ends with {percent_of(accuracy.value)} of held-out problems right{interval}"
    if not others:
        return f"{ends}; there is no other algorithm to compare it with yet."
    beaten = [name for name, one in others if not accuracy.overlaps(one)]
    tied = [name for name, one in others if accuracy.overlaps(one)]
    if not beaten:
        return f"No difference to the best beyond the intervals: {ends}, and {_listed(tied)} cannot be told from it."
    if not tied:
        return f"{ends}, beyond the interval{'s' if len(beaten) > 1 else ''} of {_listed(beaten)}."
    return f"{ends}, beyond the intervals of {_listed(beaten)}; {_listed(tied)} cannot be told from it."


def caveats(table: Results) -> list[str]:
    """What to keep in mind with this table, one sentence each."""
    found = []
    for one in table.algorithms:
        collapsed = [f"seed {seed} ({run.collapse})" for seed, run in sorted(one.stability.items()) if run.collapsed]
        if collapsed:
            found.append(
                f"{one.name} collapsed in {len(collapsed)} of {len(one.stability)} runs: {'; '.join(collapsed)}."
            )
        failed = sum(run.status == "failed" for run in one.runs)
        if failed and one.finished:
            found.append(
                f"{one.name}: {failed} of {len(one.runs)} runs failed; its accuracy is that of the others alone."
            )
    seeds = [one.accuracy.runs for one in table.algorithms if one.accuracy]
    if seeds and min(seeds) == 1:
        single = [one.name for one in table.algorithms if one.accuracy and one.accuracy.runs == 1]
        found.append(f"One run says nothing about chance: no interval for {_listed(single)}.")
    if seeds and 1 < min(seeds) < FEW_SEEDS:
        found.append(
            f"With {min(seeds)} seeds intervals are too narrow: a bootstrap's 95% interval holds the truth in about "
            "three of four trials at three seeds, in nine of ten at five."
        )
    if table.training not in ("reward/mean", "accuracy"):
        found.append(
            f"The training reward is {table.training}, since dynamic sampling keeps only groups of mixed rewards, and "
            "the mean over those says little. It covers a step's last draw, which is small and noisy after refills."
        )
    return found


def rows(table: Results) -> list[dict[str, Any]]:
    """One row a run, for comparison.json; null is what is not known."""
    return [_row(table.table, one, run) for one in table.algorithms for run in one.runs]


def _row(setting: str, one: AlgorithmResults, run: ComparedRun) -> dict[str, Any]:
    steady = one.stability.get(run.seed)
    return {
        "setting": setting,
        "algorithm": run.algorithm,
        "seed": run.seed,
        "status": run.status,
        "error": run.error,
        "folder": run.folder,
        "steps": max((record["step"] for record in run.records), default=0),
        "accuracy_start": one.start.get(run.seed) if run in one.finished else None,
        "accuracy_final": one.final.get(run.seed) if run in one.finished else None,
        "minutes": minutes(run) if run.records else None,
        "tokens": sampled_tokens(run) if run.records else None,
        **(asdict(steady) if steady else {}),
    }


def differences(table: Results) -> list[tuple[str, list[str]]]:
    """Fields of the configuration that are not the same for all algorithms, and their value for each.

    A clip range left empty is shown as the published one that it stands for. Seeds of one algorithm that differ in more
    than `IDENTITY` are shown with all their values.
    """
    settings = [
        [_flat(run.config) | _clip_range(run.config) for run in one.runs if run.config] for one in table.algorithms
    ]
    fields = dict.fromkeys(field for group in settings for config in group for field in config)
    found = []
    for field in fields:
        values = [" / ".join(dict.fromkeys(config.get(field, "–") for config in group)) or "–" for group in settings]
        known = [value for value, group in zip(values, settings, strict=True) if group]
        if field not in IDENTITY and len(set(known)) > 1:
            found.append((field, values))
    return found


def _flat(config: Any, prefix: str = "") -> dict[str, str]:
    """Every field of a nested configuration by its full name."""
    if not isinstance(config, Mapping | list) or not config:
        return {prefix: str(config)}
    parts = config.items() if isinstance(config, Mapping) else enumerate(config)
    return {name: text for key, value in parts for name, text in _flat(value, f"{prefix}.{key}".lstrip(".")).items()}


def _clip_range(config: Mapping[str, Any]) -> dict[str, str]:
    """The clip range that an empty one stands for."""
    algorithm = config.get("algorithm", {})
    loss = LOSSES.get(algorithm.get("name"))
    empty = [name for name in ("clip_low", "clip_high") if name in algorithm and algorithm[name] is None]
    return {f"algorithm.{name}": f"{getattr(loss, f'default_{name}')} (published)" for name in empty if loss}


def share(one: Estimate | None) -> str:
    """A share and its interval in percent; a dash for what is not known."""
    if one is None:
        return "–"
    return percent_of(one.value) + _bracket(one, lambda limit: f"{100 * limit:.1f}")


def chance(one: Estimate | None) -> str:
    """A probability and its interval; a dash for what is not known."""
    return "–" if one is None else f"{one.value:.2f}" + _bracket(one, lambda limit: f"{limit:.2f}")


def change(one: Estimate | None) -> str:
    """A difference of shares and its interval in percentage points; a dash for what is not known."""
    return "–" if one is None else points(one.value) + _bracket(one, points)


def over(one: AlgorithmResults, field: str, reduce: str) -> float | None:
    """A figure of stability over the runs of an algorithm: `mean`, `max` or `min`; None where no run knows it."""
    values: list[float] = [value for run in one.stability.values() if (value := getattr(run, field)) is not None]
    if not values:
        return None
    return sum(values) / len(values) if reduce == "mean" else max(values) if reduce == "max" else min(values)


def _bracket(one: Estimate, form: Any) -> str:
    return f" [{form(one.interval[0])}, {form(one.interval[1])}]" if one.interval else ""


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
