"""From results of matches to a value for each player: mean results, Bradley-Terry strengths, cycles.

A match `(i, j)` with i < j has a result in 0..1, the points of i; j gets the rest. 1/2 is a tie.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import fmean

Pair = tuple[int, int]
Results = Mapping[Pair, float]

PRIOR_SD = 2.0
"""Standard deviation of the prior of a strength, in logits: keeps players who win or lose everything finite."""


def round_robin(count: int) -> list[Pair]:
    """Everybody meets everybody: count * (count - 1) / 2 pairs."""
    return list(itertools.combinations(range(count), 2))


def anchor_pairs(count: int, anchors: int) -> list[Pair]:
    """Everybody meets the first `anchors` players: linear in `count`, and nobody is out of reach of anybody."""
    return [(i, j) for i, j in round_robin(count) if i < anchors]


def bradley_terry(count: int, results: Results) -> list[float]:
    """Strengths s in logits, such that i beats j with probability sigmoid(s_i - s_j).

    Bradley and Terry, "Rank Analysis of Incomplete Block Designs" (1952), fitted by `choix` with a Gaussian prior of
    standard deviation `PRIOR_SD` on every strength. A result counts as two games, because both orders of a pair are
    played; a tie is half a game won and half a game lost.
    """
    import choix

    # choix knows only whole games, so a result, in quarters, is four copies of half a game, and the prior weighs
    # twice what it would: log N(s; 0, sd) = -s**2 / (2 * sd**2) for copies that weigh 1/2.
    games: list[Pair] = []
    for (i, j), result in results.items():
        wins = round(4 * result)
        games += [(i, j)] * wins + [(j, i)] * (4 - wins)
    if not games:
        return [0.0] * count
    return [float(strength) for strength in choix.opt_pairwise(count, games, alpha=1 / PRIOR_SD**2)]


def expected_results(strengths: Sequence[float]) -> dict[Pair, float]:
    """What i gets against j on average, for every pair i < j; strengths in logits."""
    # A sigmoid, written so that it cannot overflow.
    return {(i, j): 0.5 + 0.5 * math.tanh((strengths[i] - strengths[j]) / 2) for i, j in round_robin(len(strengths))}


def mean_results(results: Results, counts: Sequence[int], beaten: int = 0) -> list[float | None]:
    """Mean result of each player over his matches.

    Args:
        results: of the matches that were played.
        counts: how many equals each player stands for, himself included; they tie among themselves and each of them
            plays as he does.
        beaten: how many more there are whom every player beats.

    Returns:
        Points per match in 0..1; None for a player without any match.
    """
    points = [[0.5] * (count - 1) + [1.0] * beaten for count in counts]
    for (i, j), result in results.items():
        points[i] += [result] * counts[j]
        points[j] += [1 - result] * counts[i]
    return [fmean(row) if row else None for row in points]


def cyclic_share(results: Results) -> float | None:
    """Share of cyclic triples (i beats j beats k beats i) among those whose three matches were all played.

    None if there are none. 0 for a judge with an order in mind, 1/4 in the mean for coin tosses without ties (Kendall
    and Babington Smith, "On the Method of Paired Comparisons", 1940).
    """
    players = sorted({player for pair in results for player in pair})
    triples = cyclic = 0
    for i, j, k in itertools.combinations(players, 3):
        if (i, j) in results and (j, k) in results and (i, k) in results:
            triples += 1
            around = (results[i, j], results[j, k], 1 - results[i, k])
            cyclic += all(result > 0.5 for result in around) or all(result < 0.5 for result in around)
    return cyclic / triples if triples else None
