"""The figures behind `evolpo pareto`: every checkpoint, and what the methods end with at each level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolpo.recipes.pareto.runs import EvaluatedRun
from evolpo.recipes.pareto.statistics import Bootstrap, Estimate, Figures, figures, finals, front
from evolpo.recipes.runs.evaluation import mean_interval
from evolpo.recipes.runs.levels import in_order

ALL = "all"
"""The level of all problems together."""


@dataclass(frozen=True)
class Checkpoint:
    """One evaluation of a run at a level; the intervals are over its problems."""

    method: str
    seed: int
    step: int
    level: str
    accuracy: Estimate
    tokens: Estimate
    n: int
    """Problems."""


@dataclass(frozen=True)
class Level:
    """The methods' final figures at a level of difficulty."""

    name: str
    problems: int
    methods: dict[str, Figures]
    front: list[str]
    """Methods that no other dominates, from few tokens to many."""


@dataclass(frozen=True)
class Study:
    """All that the report shows."""

    baseline: str
    seeds: dict[str, list[int]]
    """Seeds by method, methods in the order in which they were given."""
    levels: list[Level]
    """All problems first, then the levels."""
    checkpoints: list[Checkpoint]


def study_of(runs: Sequence[EvaluatedRun], baseline: str, done: Callable[[int, dict[str, float]], Any]) -> Study:
    """Compute all figures; `done` is told after each run how many are."""
    level_of = {one.prompt_id: one.difficulty for one in runs[0].final}
    names = in_order(level_of.values(), runs[0].config)
    checkpoints = []
    for number, run in enumerate(runs, start=1):
        checkpoints += [one for level in [ALL, *names] for one in _checkpoints(run, level)]
        done(number, {})
    methods = list(dict.fromkeys(run.method for run in runs))
    return Study(
        baseline=baseline,
        seeds={method: sorted(run.seed for run in runs if run.method == method) for method in methods},
        levels=[_level(name, runs, methods, baseline) for name in [ALL, *names]],
        checkpoints=checkpoints,
    )


def _checkpoints(run: EvaluatedRun, level: str) -> list[Checkpoint]:
    found = []
    for step, verdicts in run.evaluations.items():
        judged = [one for one in verdicts if level in (ALL, one.difficulty)]
        if judged:
            accuracy = _over_problems([one.accuracy for one in judged])
            spent = _over_problems([one.tokens for one in judged])
            found.append(Checkpoint(run.method, run.seed, step, level, accuracy, spent, len(judged)))
    return found


def _over_problems(values: Sequence[float]) -> Estimate:
    return Estimate(float(np.mean(values)), *mean_interval(values))


def _level(name: str, runs: Sequence[EvaluatedRun], methods: Sequence[str], baseline: str) -> Level:
    """Final figures of the problems of a level."""
    parts = {
        method: finals(
            [
                (run.seed, [one for one in run.final if name in (ALL, one.difficulty)])
                for run in runs
                if run.method == method
            ]
        )
        for method in methods
    }
    problems = parts[baseline].accuracy.shape[1]
    bootstrap = Bootstrap(problems)
    found = {method: figures(part, parts[baseline], bootstrap) for method, part in parts.items()}
    best = front([(one.accuracy.value, one.tokens.value) for one in found.values()])
    return Level(name, problems, found, [methods[index] for index in best])
