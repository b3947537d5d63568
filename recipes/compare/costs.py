"""What the runs of a comparison cost: minutes and sampled tokens, in all and up to a level of accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolpo.recipes.compare.runs import ComparedRun
from evolpo.recipes.drawing.charts import series


@dataclass(frozen=True)
class Cost:
    """What it took to reach a level, as medians over the runs that did; None where none did or nothing was logged."""

    reached: int
    """Runs that reached it."""
    steps: float | None
    tokens: float | None
    """Sampled response tokens."""
    minutes: float | None
    """Of training, without evaluations."""


def heldout_accuracy(run: ComparedRun) -> dict[int, float]:
    """Share of right responses by step, a mean over problems."""
    return {
        step: float(np.mean([one.accuracy for one in judged]))
        for step, judged in sorted(run.evaluations.items())
        if judged
    }


def cost(runs: Sequence[ComparedRun], level: float | None) -> Cost:
    """What it took to reach a held-out accuracy, read at the first evaluation that shows it."""
    if level is None:
        return Cost(0, None, None, None)
    first = [(run, next((s for s, value in heldout_accuracy(run).items() if value >= level), None)) for run in runs]
    reached = [(run, step) for run, step in first if step is not None]
    return Cost(
        len(reached),
        median([step for _, step in reached]),
        median([sampled_tokens(run, step) for run, step in reached]),
        median([minutes(run, step) for run, step in reached]),
    )


def minutes(run: ComparedRun, until: float = np.inf) -> float | None:
    """Minutes of training up to a step, without evaluations; None if a step did not log its time."""
    seconds = series(_steps(run, until), "seconds/step")
    return float(seconds.sum()) / 60 if np.isfinite(seconds).all() else None


def sampled_tokens(run: ComparedRun, until: float = np.inf) -> float | None:
    """Response tokens sampled up to a step; None if they were not logged.

    `response/tokens_mean` covers the groups that a step keeps; with dynamic sampling the groups drawn besides are
    counted at the same length. Steps that kept no group take the length between their neighbours'.
    """
    records = _steps(run, until)
    if not records:
        return 0.0
    steps, length = series(records, "step"), series(records, "response/tokens_mean")
    drawn, refilled = series(records, "groups/total"), series(records, "groups/refilled")
    known = np.isfinite(length)
    if not known.any() or not np.isfinite(drawn + refilled).all():
        return None
    # Counts of groups are those of one rank: their ratio holds for all.
    responses = run.config["prompts_per_step"] * run.config["responses_per_prompt"] * drawn / (drawn - refilled)
    return float((responses * np.interp(steps, steps[known], length[known])).sum())


def median(values: Sequence[float | None]) -> float | None:
    """Median of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _steps(run: ComparedRun, until: float) -> list[Mapping[str, Any]]:
    return [record for record in run.records if 0 < record["step"] <= until]
