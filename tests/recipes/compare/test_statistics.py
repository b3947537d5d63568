import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rliable import metrics
from scipy import stats

from evolpo.recipes.compare import statistics
from evolpo.recipes.compare.statistics import (
    Estimate,
    aligned,
    interquartile_mean,
    iqm,
    iqm_curve,
    paired_difference,
    performance_profile,
    probability_of_improvement,
)

SCORES = st.integers(2, 7).flatmap(
    lambda runs: st.lists(st.lists(st.integers(0, 10), min_size=2, max_size=2), min_size=runs, max_size=runs)
)
"""Small matrices [runs, 2 tasks] of tenths, with many ties."""


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(statistics, "REPETITIONS", 200)


def column(*values):
    return np.array(values, dtype=float)[:, None]


def test_interquartile_mean_of_known_numbers():
    # Of eight, two fall off at either end; of five, one; of three, none.
    assert iqm({"a": column(0, 0, 3, 4, 5, 6, 99, 100)})["a"].value == 4.5
    assert iqm({"a": column(0, 1, 2, 6, 100)})["a"].value == 3
    assert iqm({"a": column(1, 2, 6)})["a"].value == 3


@given(SCORES)
def test_interquartile_mean_is_that_of_rliable(scores):
    scores = np.array(scores) / 10
    assert interquartile_mean(scores.reshape(-1, 1))[0] == pytest.approx(metrics.aggregate_iqm(scores))


def test_interval_holds_the_value_and_repeats():
    scores = {"a": column(0.5, 0.6, 0.55, 0.7, 0.52), "b": column(0.1, 0.2)}
    state = np.random.get_state()[1].tolist()
    first, again = iqm(scores), iqm(scores)
    assert first == again
    assert np.random.get_state()[1].tolist() == state  # the caller's random numbers are untouched
    low, high = first["a"].interval
    assert 0.5 <= low < first["a"].value < high <= 0.7
    assert first["b"].interval == (0.1, 0.2)  # of two runs, a quarter of the draws are the lower one twice
    assert (first["a"].runs, first["b"].runs) == (5, 2)


def test_seeds_are_drawn_within_a_level():
    # All runs of a level are alike: drawn within levels, every draw is the same; across levels none would be.
    assert iqm({"a": np.array([[0.2, 0.9]] * 4)})["a"].interval == pytest.approx((0.55, 0.55))


def test_one_run_has_a_value_and_no_interval():
    assert iqm({"a": column(0.5)})["a"] == Estimate(0.5, None, 1)
    curve = iqm_curve(np.array([0.0, 1.0]), np.array([[0.1, 0.2]]))
    assert curve.values.tolist() == [0.1, 0.2]
    assert curve.band is None
    profile = performance_profile({"a": column(0.5)}, np.array([0.4, 0.6]))["a"]
    assert (profile.values.tolist(), profile.band) == ([1, 0], None)
    improvement = probability_of_improvement({"a": column(0.5), "b": column(0.1, 0.2, 0.7)})
    assert improvement["a", "b"].value == pytest.approx(2 / 3)
    assert improvement["a", "b"].interval is None


def test_what_has_no_interval_cannot_be_told_apart():
    assert Estimate(0.9, None, 1).overlaps(Estimate(0.1, (0.0, 0.2), 5))
    assert not Estimate(0.9, (0.8, 1.0), 5).overlaps(Estimate(0.1, (0.0, 0.2), 5))
    assert Estimate(0.9, (0.2, 1.0), 5).overlaps(Estimate(0.1, (0.0, 0.2), 5))


def test_probability_of_improvement_is_mann_whitney():
    first, second = [3.0, 5.0, 7.0], [1.0, 5.0, 6.0, 8.0]
    # Of twelve pairs 3 wins one; 5 wins one and ties one; 7 wins three.
    expected = (1 + 1.5 + 3) / 12
    found = probability_of_improvement({"x": column(*first), "y": column(*second)})
    assert found["x", "y"].value == pytest.approx(expected)
    assert stats.mannwhitneyu(first, second).statistic / 12 == pytest.approx(expected)
    assert found["y", "x"].value == pytest.approx(1 - expected)
    low, high = found["x", "y"].interval
    assert 0 <= low < expected < high <= 1
    assert found["y", "x"].interval == pytest.approx((1 - high, 1 - low))


@given(SCORES, SCORES)
@settings(deadline=None, max_examples=30)
def test_probability_of_improvement_is_that_of_rliable(first, second):
    first, second = np.array(first) / 10, np.array(second) / 10
    expected = metrics.probability_of_improvement(first, second)
    assert statistics._wins(first, second) == pytest.approx(expected)


def test_every_ordered_pair_has_a_probability():
    scores = {name: column(*values) for name, values in zip("abc", ([1, 2], [3, 4, 5], [6, 7]), strict=True)}
    found = probability_of_improvement(scores)
    assert len(found) == 6
    assert found["c", "a"] == Estimate(1.0, (1.0, 1.0), 2)
    assert probability_of_improvement({"a": column(1, 2)}) == {}


def test_curve_has_its_mean_at_every_point():
    values = np.array([[0, 10], [1, 11], [2, 12], [3, 13], [100, 113]], dtype=float)
    curve = iqm_curve(np.array([0.0, 5.0]), values)
    assert curve.values.tolist() == [2, 12]
    low, high = curve.band
    assert (low <= curve.values).all()
    assert (high >= curve.values).all()


def test_profile_is_the_share_above():
    profile = performance_profile({"a": column(0.2, 0.4, 0.4, 0.8)}, np.array([0.0, 0.3, 0.4, 0.9]))["a"]
    assert profile.values.tolist() == [1, 0.75, 0.25, 0]
    assert profile.band[0][1] <= 0.75 <= profile.band[1][1]


def test_paired_difference_takes_common_seeds():
    first, second = {0: 0.5, 1: 0.7, 2: 0.6, 9: 0.0}, {0: 0.4, 1: 0.5, 2: 0.3, 7: 1.0}
    found = paired_difference(first, second)
    expected = stats.ttest_rel([0.5, 0.7, 0.6], [0.4, 0.5, 0.3]).confidence_interval()
    assert found.value == pytest.approx(0.2)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.runs == 3
    assert paired_difference({0: 0.5}, {0: 0.25}) == Estimate(0.25, None, 1)
    assert paired_difference({0: 0.5}, {1: 0.5}) is None


def test_runs_are_aligned_on_the_steps_they_share():
    steps, values = aligned([{0: 0.1, 5: 0.2, 10: 0.3}, {0: 0.4, 10: 0.6}])
    assert steps.tolist() == [0, 10]
    assert values.tolist() == [[0.1, 0.3], [0.4, 0.6]]
    assert aligned([])[1].shape == (0, 0)
