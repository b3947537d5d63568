"""The figures of a comparison: what the runs of each algorithm add up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evolpo.recipes.compare.costs import Cost, cost, heldout_accuracy, median, minutes
from evolpo.recipes.compare.runs import ComparedRun
from evolpo.recipes.compare.stability import CLIP, Stability, smoothed, stability, training_key
from evolpo.recipes.compare.statistics import (
    Curve,
    Estimate,
    aligned,
    iqm,
    iqm_curve,
    paired_difference,
    performance_profile,
    probability_of_improvement,
)
from evolpo.recipes.drawing.charts import Floats
from evolpo.recipes.runs.evaluation import Judged
from evolpo.recipes.runs.levels import in_order

LEVEL_SHARE = 0.9
"""Costs are read where held-out accuracy has made this share of the best algorithm's gain."""
THRESHOLDS: Floats = np.linspace(0, 1, 101)
ALL_LEVELS = "all levels"


@dataclass(frozen=True)
class Lines:
    """A figure over steps: interquartile mean over runs with its band, and each run."""

    curve: Curve
    runs: Floats
    """[runs, points]."""


@dataclass(frozen=True)
class AlgorithmResults:
    """What the runs of one algorithm add up to; a run that did not finish has no part in accuracy, curves and cost."""

    name: str
    runs: tuple[ComparedRun, ...]
    finished: tuple[ComparedRun, ...]
    start: Mapping[int, float]
    """Held-out accuracy before training by seed."""
    final: Mapping[int, float]
    """Held-out accuracy at the last step by seed."""
    accuracy: Estimate | None
    """Interquartile mean of `final`; None without a finished run."""
    levels: Mapping[str, Estimate]
    """The same by difficulty level, and with all levels as tasks of one weight under `ALL_LEVELS`; empty without."""
    tokens: float | None
    """Mean response tokens on held-out problems at the last step."""
    heldout: Lines | None
    reward: Lines | None
    length: Lines | None
    clip: Lines | None
    profile: Curve | None
    stability: Mapping[int, Stability]
    """By seed, of all runs that ended after a step or more, failed ones included."""
    cost: Cost
    minutes: float | None
    """Median minutes of training of a finished run, without evaluations."""


@dataclass(frozen=True)
class Results:
    """All figures of one table."""

    table: str
    training: str
    """Metric that is the training reward."""
    algorithms: tuple[AlgorithmResults, ...]
    improvement: Mapping[tuple[str, str], Estimate]
    """Chance that a run of the first ends more accurate than one of the second."""
    difference: Mapping[tuple[str, str], Estimate]
    """Mean difference in final accuracy, first minus second, paired by seed."""
    levels: tuple[str, ...]
    """Difficulty levels in the order of the data, and `ALL_LEVELS`; empty if there are fewer than two."""
    goal: float | None
    """Held-out accuracy at which costs are read; None if no algorithm gained."""


def results(table: str, runs: Sequence[ComparedRun]) -> Results:
    """Work out all figures of the runs of one table; algorithms keep the order in which they come."""
    key = training_key([(run.records, run.config) for run in runs if run.records])
    groups = {name: [run for run in runs if run.algorithm == name] for name in dict.fromkeys(r.algorithm for r in runs)}
    finished = {name: _finished(group) for name, group in groups.items()}
    curves = {name: {run.seed: heldout_accuracy(run) for run in group} for name, group in finished.items()}
    start = {name: {seed: one[0] for seed, one in group.items() if 0 in one} for name, group in curves.items()}
    final = {name: {seed: one[max(one)] for seed, one in group.items()} for name, group in curves.items()}

    scores = {name: np.array(list(group.values()))[:, None] for name, group in final.items() if group}
    accuracy = iqm(scores)
    names, level_scores = _level_scores(finished)
    by_level = _by_level(names, level_scores)
    profiles = performance_profile(level_scores or scores, THRESHOLDS)
    goal = _goal(accuracy, start)
    algorithms = tuple(
        AlgorithmResults(
            name=name,
            runs=tuple(group),
            finished=tuple(finished[name]),
            start=start[name],
            final=final[name],
            accuracy=accuracy.get(name),
            levels=by_level.get(name, {}),
            tokens=_tokens(finished[name]),
            heldout=_lines(list(curves[name].values())),
            reward=_lines([smoothed(run.records, key) for run in finished[name]]),
            length=_lines([smoothed(run.records, "response/tokens_mean") for run in finished[name]]),
            clip=_lines([smoothed(run.records, *CLIP) for run in finished[name]]),
            profile=profiles.get(name),
            stability={run.seed: stability(run.records, key) for run in group if _ended(run)},
            cost=cost(finished[name], goal),
            minutes=median([minutes(run) for run in finished[name]]),
        )
        for name, group in groups.items()
    )
    pairs = {(a, b): paired_difference(final[a], final[b]) for a in scores for b in scores if a != b}
    difference = {pair: estimate for pair, estimate in pairs.items() if estimate}
    levels = (*names, ALL_LEVELS) if names else ()
    return Results(table, key, algorithms, probability_of_improvement(scores), difference, levels, goal)


def _ended(run: ComparedRun) -> bool:
    return run.status != "pending" and any(record["step"] > 0 for record in run.records)


def _finished(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    return sorted((run for run in runs if run.status == "ok" and heldout_accuracy(run)), key=lambda run: run.seed)


def _last(run: ComparedRun) -> tuple[Judged, ...]:
    """Verdicts of a finished run's last evaluation."""
    return run.evaluations[max(heldout_accuracy(run))]


def _tokens(finished: Sequence[ComparedRun]) -> float | None:
    means = [np.mean([one.tokens for one in _last(run)]) for run in finished]
    return float(np.mean(means)) if means else None


def _level_scores(finished: Mapping[str, Sequence[ComparedRun]]) -> tuple[list[str], dict[str, Floats]]:
    """Levels that all runs share, in the order of the data, and final accuracy by algorithm, [seeds, levels]."""
    judged = {name: [_last(run) for run in group] for name, group in finished.items() if group}
    known = [{one.difficulty for one in run} for group in judged.values() for run in group]
    configs = [run.config for group in finished.values() for run in group]
    names = in_order(set.intersection(*known), configs[0]) if known else []
    if len(names) < 2:
        return [], {}
    scores = {
        name: np.array(
            [[np.mean([j.accuracy for j in run if j.difficulty == level]) for level in names] for run in group]
        )
        for name, group in judged.items()
    }
    return names, scores


def _by_level(names: Sequence[str], scores: Mapping[str, Floats]) -> dict[str, dict[str, Estimate]]:
    """IQM by algorithm and level, and over all levels."""
    columns = [(level, iqm({name: values[:, [i]] for name, values in scores.items()})) for i, level in enumerate(names)]
    columns.append((ALL_LEVELS, iqm(scores)))
    return {name: {level: estimates[name] for level, estimates in columns} for name in scores}


def _goal(accuracy: Mapping[str, Estimate], start: Mapping[str, Mapping[int, float]]) -> float | None:
    """Mean accuracy before training plus `LEVEL_SHARE` of what the best algorithm gained on it."""
    before = [value for group in start.values() for value in group.values()]
    if not before or not accuracy:
        return None
    base, best = float(np.mean(before)), max(one.value for one in accuracy.values())
    return base + LEVEL_SHARE * (best - base) if best > base else None


def _lines(runs: Sequence[Mapping[int, float]]) -> Lines | None:
    """Runs on the steps that all of them have; a run without the figure is left out, None if there is nothing."""
    steps, values = aligned([run for run in runs if run])
    return Lines(iqm_curve(steps, values), values) if len(steps) else None
