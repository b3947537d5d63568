"""Weights of the measures that people like, fitted to pages that people ranked, and how well a ranking is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from evolpo.rewards.frontend.taste import LIKED, LOGARITHMIC, Coefficient, Coefficients, reached, taste

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Measured = Sequence[Mapping[str, float]]

PARTS = 10
"""Parts that the pages are cut into: each is predicted by weights fitted to the others."""
REPEATS = 10
RIDGE = 3.0
"""Penalty on the squared weights: for some hundred pages and seven measures anything from 0.3 to 10 gives the same."""
OUTER = (5, 95)
"""Percentiles of the pages at which a measure is at its worst and at its best."""


def fit(measured: Measured, people: Floats) -> Coefficients:
    """Weights by which a sum of the measures follows the ranks of the pages: least squares, none negative, penalised.

    They are scaled to sum 1.

    Args:
        measured: of each page every measure of `LIKED`; NaN where it could not be taken.
        people: [N] score of each page.

    Raises:
        ValueError: no measure goes with the scores.
    """
    ends = {name: _ends(name, [page[name] for page in measured]) for name in LIKED}
    reach = np.array([[reached(name, page[name], *ends[name]) for name in LIKED] for page in measured])  # [N, M]
    return {
        name: Coefficient(round(ends[name][0], 4), round(ends[name][1], 4), round(float(share), 4))
        for name, share in zip(LIKED, fit_shares(reach, people), strict=True)
    }


def fit_shares(reach: Floats, people: Floats) -> Floats:
    """[M] weights of sum 1 by which a sum of the columns follows the ranks of the pages; see `fit`.

    Args:
        reach: [N, M] of each page M values, 0 to 1, the higher the better.
        people: [N] score of each page.

    Raises:
        ValueError: no column goes with the scores.
    """
    columns = reach.shape[1]
    ranks = stats.rankdata(people) / len(people)
    # The penalty as further rows of the system, so that plain non-negative least squares solves it.
    rows = np.vstack([reach - reach.mean(axis=0), math.sqrt(RIDGE) * np.eye(columns)])
    weights, _ = optimize.nnls(rows, np.concatenate([ranks - ranks.mean(), np.zeros(columns)]))
    if not weights.sum() > 0:
        raise ValueError("no measure goes with the scores of these pages")
    shares: Floats = weights / weights.sum()
    return shares


def _ends(name: str, values: Sequence[float]) -> tuple[float, float]:
    """Where a measure is at its worst and at its best; apart even if all pages have the same value."""
    low, high = (float(value) for value in np.nanpercentile(values, OUTER))
    if high - low < 1e-3 * max(1.0, abs(high)):
        high = low * 1.1 + 1e-3 if name in LOGARITHMIC else low + 1e-3 * max(1.0, abs(high))
    return (low, high) if LIKED[name][1] > 0 else (high, low)


def predict(measured: Measured, coefficients: Coefficients) -> Floats:
    """[N] taste of each page, 0 to 1."""
    return np.array([taste(page, coefficients) for page in measured])


def cross_validated(measured: Measured, people: Floats, seed: int) -> Floats:
    """[N] mean liking of each page by weights fitted without it, over `REPEATS` ways to cut the pages into `PARTS`."""

    def liking(left_out: Indices, others: Indices) -> Floats:
        coefficients = fit([measured[i] for i in others], people[others])
        return predict([measured[i] for i in left_out], coefficients)

    return _in_turn(liking, len(measured), seed)


def cross_validated_shares(reach: Floats, people: Floats, seed: int) -> Floats:
    """[N] the same of weights of columns, see `fit_shares`."""
    return _in_turn(
        lambda left_out, others: reach[left_out] @ fit_shares(reach[others], people[others]), len(people), seed
    )


def _in_turn(predicted: Callable[[Indices, Indices], Floats], count: int, seed: int) -> Floats:
    """[N] mean of what is predicted of each page from the pages of other parts."""
    draw = np.random.default_rng(seed)
    total = np.zeros(count)
    for _ in range(REPEATS):
        order = draw.permutation(count)
        for part in range(PARTS):
            left_out = order[part::PARTS]
            total[left_out] += predicted(left_out, np.setdiff1d(order, left_out))
    return total / REPEATS


def agreement(values: Floats, people: Floats) -> dict[str, float]:
    """`spearman`: rank correlation; `pairs_right`: share of the pairs of pages in the order of their scores.

    Pairs that people rate alike are left out; a pair with equal values is half right.
    """
    first, second = np.triu_indices(len(people), 1)
    apart = people[first] != people[second]
    sides = np.sign(values[first] - values[second]) * np.sign(people[first] - people[second])
    return {
        "spearman": float(stats.spearmanr(values, people).statistic),
        "pairs_right": float(((1 + sides[apart]) / 2).mean()),
    }
