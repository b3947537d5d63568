import itertools
import math

import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolpo.rewards.judges.ranking import (
    PRIOR_SD,
    anchor_pairs,
    bradley_terry,
    cyclic_share,
    expected_results,
    mean_results,
    round_robin,
)


def test_schedules():
    assert round_robin(3) == [(0, 1), (0, 2), (1, 2)]
    assert round_robin(1) == round_robin(0) == []
    assert anchor_pairs(4, 2) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    assert anchor_pairs(3, 8) == round_robin(3)
    for count in (9, 16, 33):
        pairs = anchor_pairs(count, 4)
        assert len(set(pairs)) == len(pairs) == 4 * (count - 4) + 6
        assert all(sum(player in pair for pair in pairs) == (count - 1 if player < 4 else 4) for player in range(count))


def test_mean_results_by_hand():
    results = {(0, 1): 1.0, (0, 2): 0.5, (1, 2): 0.25}
    assert mean_results(results, [1, 1, 1]) == [0.75, 0.125, 0.625]
    # Two who say the same as 0: each has a tie with the other, and the others meet both of them.
    assert mean_results(results, [2, 1, 1]) == [(0.5 + 1 + 0.5) / 3, 0.25 / 3, (0.5 + 0.5 + 0.75) / 3]
    assert mean_results(results, [1, 1, 1], beaten=1) == [2.5 / 3, 1.25 / 3, 2.25 / 3]
    assert mean_results({(0, 1): 1.0}, [1, 1, 1]) == [1.0, 0.0, None]


quarters = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@st.composite
def tournaments(draw, most=7):
    count = draw(st.integers(2, most))
    return count, {pair: draw(quarters) for pair in round_robin(count)}


@settings(deadline=None)
@given(tournaments(), st.lists(st.integers(1, 3), min_size=7, max_size=7))
def test_points_of_a_round_robin_sum_to_half_the_players(tournament, counts):
    count, results = tournament
    counts = counts[:count]
    values = mean_results(results, counts)
    total = sum(value * equals for value, equals in zip(values, counts, strict=True))
    assert total == pytest.approx(sum(counts) / 2)


def penalised_likelihood(strengths, results):
    """Log-likelihood of two games a result, ties half and half, and the Gaussian prior; a plain loop."""
    total = -sum(strength**2 for strength in strengths) / (2 * PRIOR_SD**2)
    for (i, j), result in results.items():
        total -= 2 * result * math.log1p(math.exp(strengths[j] - strengths[i]))
        total -= 2 * (1 - result) * math.log1p(math.exp(strengths[i] - strengths[j]))
    return total


@settings(deadline=None, max_examples=50)
@given(tournaments(5))
def test_strengths_are_the_mode_of_the_posterior(tournament):
    count, results = tournament
    strengths = bradley_terry(count, results)
    best = penalised_likelihood(strengths, results)
    for player, step in itertools.product(range(count), (-0.01, 0.01)):
        moved = [strength + step * (index == player) for index, strength in enumerate(strengths)]
        assert penalised_likelihood(moved, results) < best


def test_two_players_by_hand():
    # Mode of log sigmoid(2 s) * 2 - s**2 / 4 (strengths s and -s): 4 * sigmoid(-2 s) = s / 2.
    [strength, other] = bradley_terry(2, {(0, 1): 1.0})
    assert strength == pytest.approx(-other)
    assert 4 / (1 + math.exp(2 * strength)) == pytest.approx(strength / 2, rel=1e-4)
    assert bradley_terry(2, {(0, 1): 0.5}) == pytest.approx([0, 0], abs=1e-6)
    assert bradley_terry(3, {}) == [0, 0, 0]


def test_strengths_are_those_of_choix_where_every_game_is_whole():
    random = np.random.default_rng(3)
    truth = random.normal(size=6)
    results, games = {}, []
    for i, j in round_robin(6):
        wins = int(random.binomial(2, 1 / (1 + math.exp(truth[j] - truth[i]))))
        results[i, j] = wins / 2
        games += [(i, j)] * wins + [(j, i)] * (2 - wins)
    ours = bradley_terry(6, results)
    theirs = choix.opt_pairwise(6, games, alpha=1 / (2 * PRIOR_SD**2))
    assert ours == pytest.approx(list(theirs), abs=1e-4)


@settings(deadline=None, max_examples=50)
@given(tournaments(), st.randoms(use_true_random=False))
def test_renumbering_the_players_renumbers_the_strengths(tournament, random):
    count, results = tournament
    order = list(range(count))
    random.shuffle(order)
    renumbered = {}
    for (i, j), result in results.items():
        one, other = order[i], order[j]
        renumbered[min(one, other), max(one, other)] = result if one < other else 1 - result
    strengths, others = bradley_terry(count, results), bradley_terry(count, renumbered)
    assert [others[place] for place in order] == pytest.approx(strengths, abs=1e-3)


def test_expected_results():
    got = expected_results([math.log(3), 0.0, 2000.0])
    assert got == pytest.approx({(0, 1): 0.75, (0, 2): 0.0, (1, 2): 0.0})
    [win, lose] = bradley_terry(2, {(0, 1): 1.0})
    assert 0.5 < expected_results([win, lose])[0, 1] < 1  # The prior does not believe in certainty.


def test_cycles():
    ring = {(0, 1): 1.0, (1, 2): 0.75, (0, 2): 0.25}  # 0 beats 1 beats 2 beats 0.
    assert cyclic_share(ring) == 1
    assert cyclic_share({pair: 1 - result for pair, result in ring.items()}) == 1
    assert cyclic_share({**ring, (0, 2): 1.0}) == 0
    assert cyclic_share({**ring, (0, 2): 0.5}) == 0
    assert cyclic_share({(0, 1): 1.0, (1, 2): 1.0}) is None
    # A fourth whom everybody beats closes no ring: 1 of 4 triples.
    assert cyclic_share({**ring, (0, 3): 1.0, (1, 3): 1.0, (2, 3): 1.0}) == 0.25


def test_coin_tosses_are_cyclic_in_a_quarter_of_the_triples():
    random = np.random.default_rng(0)
    shares = [cyclic_share({pair: float(random.integers(2)) for pair in round_robin(7)}) for _ in range(200)]
    assert float(np.mean(shares)) == pytest.approx(0.25, abs=0.03)
