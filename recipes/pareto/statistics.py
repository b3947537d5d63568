"""What methods reach and what it costs: the front nobody dominates, and intervals over seeds and problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evolpo.recipes.drawing.charts import Floats
from evolpo.recipes.runs.evaluation import Judged, mean_interval

RESAMPLES = 5000


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Finals:
    """The final verdicts of a method's runs, all on the same problems."""

    seeds: tuple[int, ...]
    accuracy: Floats
    """Share of right responses; [seeds, problems]."""
    tokens: Floats
    """Mean response tokens; [seeds, problems]."""


@dataclass(frozen=True)
class Figures:
    """A method's final figures; what is measured against the baseline is None for the baseline itself."""

    accuracy: Estimate
    tokens: Estimate
    saved: Estimate | None
    """Share of the baseline's tokens that is not needed; negative where more are."""
    gain: Estimate | None
    """Accuracy minus the baseline's."""


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (accuracy, tokens) that no other dominates, from few tokens to many.

    A point dominates another if it is at least as accurate with at most as many tokens, and better in one of both;
    equal points do not dominate each other.
    """
    best, last, found = -np.inf, np.inf, []
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0])):
        accuracy, tokens = points[index]
        if accuracy > best or (accuracy == best and tokens == last):
            best, last = accuracy, tokens
            found.append(index)
    return found


def finals(runs: Sequence[tuple[int, Sequence[Judged]]]) -> Finals:
    """Lay out (seed, final verdicts) of a method's runs, by seed and by problem; the problems have to be the same."""
    runs = sorted(runs, key=lambda run: run[0])
    rows = [sorted(judged, key=lambda one: one.prompt_id) for _, judged in runs]
    return Finals(
        seeds=tuple(seed for seed, _ in runs),
        accuracy=np.array([[one.accuracy for one in row] for row in rows]),
        tokens=np.array([[one.tokens for one in row] for row in rows]),
    )


class Bootstrap:
    """95% percentile intervals over seeds and problems, which are crossed: every seed answers every problem.

    Both are drawn anew with replacement, independently of each other, and a draw counts each verdict as often as its
    seed was drawn times its problem (Owen, The pigeonhole bootstrap, arXiv 0712.1111, section 3): a problem that is
    hard is hard for all seeds, which drawing problems for each seed alone would average away. All methods share the
    drawn problems, and methods with the same seeds the drawn seeds, so that differences are paired by problem and seed;
    seeds of methods with other seeds are drawn for themselves. One seed says nothing about seeds: then the interval
    is over problems. Draws are seeded: the same verdicts give the same interval.

    Args:
        problems: how many.
        resamples: draws.
    """

    def __init__(self, problems: int, resamples: int = RESAMPLES) -> None:
        self._resamples = resamples
        self._problems = self._draws(problems, 0)
        self._seeds: dict[tuple[int, ...], Floats] = {}

    def _draws(self, size: int, *seed: int) -> Floats:
        """Share of each of `size` things in each draw; [resamples, size]."""
        rng = np.random.default_rng(seed)
        return rng.multinomial(size, np.full(size, 1 / size), self._resamples) / size

    def means(self, seeds: tuple[int, ...], values: Floats) -> Floats:
        """Mean of values [seeds, problems] in each draw; [resamples]."""
        if seeds not in self._seeds:
            self._seeds[seeds] = self._draws(len(seeds), 1, *seeds)
        means: Floats = np.sum((self._seeds[seeds] @ values) * self._problems, axis=1)
        return means

    def mean(self, seeds: tuple[int, ...], values: Floats) -> Estimate:
        """Mean of values [seeds, problems].

        Where all values are the same, draws have no spread; then it is the interval over problems of one seed, which
        for verdicts of yes and no is Wilson's.
        """
        if np.ptp(values) == 0:
            return Estimate(float(values[0, 0]), *mean_interval(values[0].tolist()))
        return _estimate(float(values.mean()), self.means(seeds, values))


def figures(one: Finals, baseline: Finals, bootstrap: Bootstrap) -> Figures:
    """Final figures of a method, measured against a baseline on the same problems."""
    accuracy, tokens = (bootstrap.mean(one.seeds, values) for values in (one.accuracy, one.tokens))
    if one is baseline:
        return Figures(accuracy, tokens, None, None)
    draws = [bootstrap.means(each.seeds, each.tokens) for each in (one, baseline)]
    saved = _estimate(float(1 - one.tokens.mean() / baseline.tokens.mean()), 1 - draws[0] / draws[1])
    draws = [bootstrap.means(each.seeds, each.accuracy) for each in (one, baseline)]
    gain = _estimate(float(one.accuracy.mean() - baseline.accuracy.mean()), draws[0] - draws[1])
    return Figures(accuracy, tokens, saved, gain)


def _estimate(value: float, draws: Floats) -> Estimate:
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(value, float(low), float(high))
