"""Statistics over the seeds of algorithms: interquartile means, intervals, who improves on whom.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", arXiv 2108.13264, in
the authors' package `rliable`. Scores are a matrix [runs, tasks]: a run is a seed, and a task is a stratum of the
bootstrap, which draws the runs of each task apart from those of the others.

*What a task is here.* In `rliable` every run of a task is trained on that task alone. A comparison trains one run a
seed, which answers all held-out problems, so that these together are one task, [seeds, 1], and the bootstrap draws
whole seeds. Difficulty levels can be given as tasks, [seeds, levels], to weigh them alike; but the levels of a seed
come from the same weights and rise and fall together, and drawing them apart makes the interval too narrow. In a
simulation of five seeds and three levels, with a standard deviation of 0.1 between seeds that all levels share, 95%
intervals drawn by level held the truth in 72% of trials, and those drawn by seed in 90%. So levels get a table of
their own, and judgements rest on whole seeds.

*Few seeds.* A percentile bootstrap over three seeds covers the truth in about 75% of trials, over five in about 90%.

*Unequal seeds.* Algorithms are drawn apart from each other, so each may have its own number of runs; a run without a
score is left out by the caller, and `Estimate.runs` says how many there were. Only the paired difference needs the same
seeds, and takes those that both have. One run alone has a value and no interval.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from absl.logging import get_absl_handler
from rliable import library
from scipy import stats

from evolpo.recipes.drawing.charts import Floats

# rliable logs with absl, whose handler joins the root logger, and closes its stream when logging is set up anew: it
# shall neither print what others log nor hold, and close, a stderr that somebody put in place for a while.
logging.getLogger().removeHandler(get_absl_handler())
get_absl_handler().python_handler.stream = sys.__stderr__

REPETITIONS = 2000
"""Draws of every bootstrap; rliable's own number for profiles."""
SEED = 0
"""Of the bootstrap: the same runs give the same intervals."""


@dataclass(frozen=True)
class Estimate:
    """A figure over runs and its 95% interval."""

    value: float
    interval: tuple[float, float] | None
    """None where there were fewer than two runs."""
    runs: int

    def overlaps(self, other: Estimate) -> bool:
        """Whether the intervals share a value; what has no interval cannot be told apart and overlaps all."""
        if self.interval is None or other.interval is None:
            return True
        return self.interval[0] <= other.interval[1] and other.interval[0] <= self.interval[1]


@dataclass(frozen=True)
class Curve:
    """A figure along an axis, with a pointwise 95% band; the band is None with fewer than two runs."""

    x: Floats
    values: Floats
    band: tuple[Floats, Floats] | None


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed numpy's global generator for the block: rliable's bootstrap draws from it, whatever it is given."""
    state = np.random.get_state()
    np.random.seed(SEED)
    try:
        yield
    finally:
        np.random.set_state(state)


def interquartile_mean(scores: Floats) -> Floats:
    """Mean of what is left of axis 0 without its lowest and its highest quarter, each rounded down.

    The definition of `rliable.metrics.aggregate_iqm`, for many columns at once and without its checks, which cost forty
    times as much as the mean.
    """
    cut = len(scores) // 4
    mean: Floats = np.sort(scores, axis=0)[cut : len(scores) - cut].mean(axis=0)
    return mean


def iqm(scores: Mapping[str, Floats]) -> dict[str, Estimate]:
    """Interquartile mean over all runs and tasks of each algorithm, with stratified bootstrap intervals.

    Args:
        scores: by algorithm, [runs, tasks]; no NaN.
    """
    estimates = {}
    for name, values in scores.items():
        curve = _curve(np.zeros(1), values[:, :, None])
        interval = (float(curve.band[0][0]), float(curve.band[1][0])) if curve.band else None
        estimates[name] = Estimate(float(curve.values[0]), interval, len(values))
    return estimates


def iqm_curve(x: Floats, values: Floats) -> Curve:
    """Interquartile mean over runs at every point of an axis, such as steps: sample efficiency.

    Args:
        x: [points].
        values: [runs, points]; no NaN.
    """
    return _curve(x, values[:, None, :])


def _curve(x: Floats, values: Floats) -> Curve:
    """IQM of [runs, tasks, points] at every point."""

    def aggregate(drawn: Floats) -> Floats:
        return interquartile_mean(drawn.reshape(-1, drawn.shape[-1]))

    if len(values) < 2:
        return Curve(x, aggregate(values), None)
    with _seeded():
        points, bands = library.get_interval_estimates({"": values}, aggregate, reps=REPETITIONS)
    return Curve(x, points[""], (bands[""][0], bands[""][1]))


def probability_of_improvement(scores: Mapping[str, Floats]) -> dict[tuple[str, str], Estimate]:
    """Chance that a run of the first algorithm scores higher than one of the second, for every ordered pair.

    The Mann-Whitney statistic over all pairs of runs, averaged over tasks; a tie counts half (section 4.3 of the
    paper). Algorithms are drawn independently of each other.

    Args:
        scores: by algorithm, [runs, tasks]; all with the same tasks.
    """
    names, arrays = list(scores), list(scores.values())
    pairs = list(combinations(range(len(names)), 2))
    if not pairs:
        return {}

    def aggregate(*drawn: Floats) -> Floats:
        return np.array([_wins(drawn[i], drawn[j]) for i, j in pairs])

    with _seeded():
        points, bands = library.get_interval_estimates({"": arrays}, aggregate, reps=REPETITIONS)
    result = {}
    for (i, j), value, low, high in zip(pairs, points[""], *bands[""], strict=True):
        enough, runs = min(len(arrays[i]), len(arrays[j])) > 1, min(len(arrays[i]), len(arrays[j]))
        there, back = (float(low), float(high)), (1 - float(high), 1 - float(low))
        result[names[i], names[j]] = Estimate(float(value), there if enough else None, runs)
        result[names[j], names[i]] = Estimate(1 - float(value), back if enough else None, runs)
    return result


def _wins(first: Floats, second: Floats) -> float:
    """As `rliable.metrics.probability_of_improvement`, without the p-value that it computes and drops each time."""
    a, b = first[:, None], second[None]  # [runs of first, 1, tasks], [1, runs of second, tasks]
    return float(((a > b) + 0.5 * (a == b)).mean())


def performance_profile(scores: Mapping[str, Floats], thresholds: Floats) -> dict[str, Curve]:
    """Share of scores, over runs and tasks, above each threshold (section 4.2 of the paper).

    Args:
        scores: by algorithm, [runs, tasks].
        thresholds: [points].
    """

    def profile(drawn: Floats, taus: Floats) -> Floats:
        share: Floats = (drawn.reshape(-1, 1) > taus).mean(axis=0)
        return share

    curves = {}
    for name, values in scores.items():
        if len(values) < 2:
            curves[name] = Curve(thresholds, profile(values, thresholds), None)
            continue
        with _seeded():
            points, bands = library.create_performance_profile(
                {"": values}, thresholds, custom_profile_func=profile, reps=REPETITIONS
            )
        curves[name] = Curve(thresholds, points[""], (bands[""][0], bands[""][1]))
    return curves


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """Mean of first - second over the seeds both have, with Student's 95% interval; None without a common seed.

    The same seed means the same prompts in the same order: what the seed does to both cancels out. With few seeds
    Student's interval, which knows how few they are, is wider and more honest than a bootstrap.

    Args:
        first: score by seed.
        second: score by seed.
    """
    differences = [first[seed] - second[seed] for seed in sorted(set(first) & set(second))]
    if not differences:
        return None
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return Estimate(mean, None, len(differences))
    half = float(stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences))
    return Estimate(mean, (mean - half, mean + half), len(differences))


def aligned(series: Sequence[Mapping[int, float]]) -> tuple[Floats, Floats]:
    """Runs on one axis: the steps at which all of them have a value, [points], and the values, [runs, points]."""
    steps = sorted(set.intersection(*(set(one) for one in series))) if series else []
    values = np.array([[one[step] for step in steps] for one in series], dtype=np.float64)
    return np.array(steps, dtype=np.float64), values.reshape(len(series), len(steps))
