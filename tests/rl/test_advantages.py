"""Estimators of the advantage: values worked by hand, unscored rewards, and the properties that define them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolpo.rl.advantages import ADVANTAGES, advantages_of, group_advantages, has_signal
from evolpo.rl.data import Group, Prompt

REWARDS = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=2, max_size=12)


def differing(rewards):
    return max(rewards) - min(rewards) > 0.01


def group(*rewards):
    return Group(Prompt("p", "text", (1, 2)), (), rewards)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # mean 2, deviations -2, -1, 0, 3, sample variance 14 / 3
        ("group", [x / (math.sqrt(14 / 3) + 1e-6) for x in (-2, -1, 0, 3)]),
        ("group_no_std", [-2, -1, 0, 3]),
        ("dr_grpo", [-2, -1, 0, 3]),
        # 0 - 8/3, 1 - 7/3, 2 - 6/3, 5 - 3/3
        ("leave_one_out", [-8 / 3, -4 / 3, 0, 4]),
    ],
)
def test_values_worked_by_hand(estimator, expected):
    assert advantages_of([0.0, 1.0, 2.0, 5.0], estimator) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("estimator", "expected"), [("group_no_std", [-1, 1]), ("leave_one_out", [-2, 2])])
def test_unscored_rewards_take_no_part(estimator, expected):
    got = advantages_of([None, 0.0, None, 2.0], estimator)
    assert (got[0], got[2]) == (None, None)
    assert [got[1], got[3]] == pytest.approx(expected)


def test_two_rewards_have_a_sample_standard_deviation():
    half = 0.5 / (math.sqrt(0.5) + 1e-6)
    assert advantages_of([0.0, 1.0], "group") == pytest.approx([-half, half], abs=1e-12)


@pytest.mark.parametrize("estimator", ADVANTAGES)
def test_without_differing_rewards_there_is_no_advantage(estimator):
    assert advantages_of([1.0, 1.0, 1.0], estimator) == [0.0, 0.0, 0.0]
    assert advantages_of([0.1 + 0.2, None, 0.1 + 0.2], estimator) == [0.0, None, 0.0]
    assert advantages_of([1.0], estimator) == [0.0]
    assert advantages_of([3.0, None], estimator) == [0.0, None]
    assert advantages_of([None, None], estimator) == [None, None]
    assert advantages_of([], estimator) == []


def test_unknown_estimators_raise():
    with pytest.raises(KeyError):
        advantages_of([0.0, 1.0], "best_of")


def test_groups_are_independent_and_keep_their_order():
    groups = [group(0.0, 1.0), group(5.0, None, 9.0), group(2.0, 2.0)]
    assert group_advantages(groups, "group_no_std") == [[-0.5, 0.5], [-2.0, None, 2.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [((0.0, 1.0), True), ((1.0, 1.0), False), ((1.0, None), False), ((None, 0.0, 1.0), True), ((None,), False)],
)
def test_has_signal(rewards, expected):
    assert has_signal(group(*rewards)) is expected
    assert any(advantages_of(rewards, "group")) is expected


@pytest.mark.parametrize("estimator", ADVANTAGES)
@given(rewards=REWARDS)
def test_the_mean_is_zero(estimator, rewards):
    values = advantages_of(rewards, estimator)
    assert math.fsum(values) == pytest.approx(0, abs=1e-9 * (1 + max(map(abs, values))) * len(values))


@pytest.mark.parametrize("estimator", ADVANTAGES)
@given(rewards=REWARDS.filter(differing), shift=st.integers(-100, 100))
def test_a_common_shift_changes_nothing(estimator, rewards, shift):
    shifted = advantages_of([r + shift for r in rewards], estimator)
    assert shifted == pytest.approx(advantages_of(rewards, estimator), rel=1e-6, abs=1e-6)


@given(rewards=REWARDS.filter(differing), scale=st.floats(0.1, 100))
def test_standardised_advantages_do_not_depend_on_scale(rewards, scale):
    scaled = advantages_of([r * scale for r in rewards], "group")
    assert scaled == pytest.approx(advantages_of(rewards, "group"), rel=1e-2, abs=1e-9)


@given(rewards=REWARDS.filter(differing), scale=st.floats(0.1, 100))
def test_centred_advantages_scale_with_the_rewards(rewards, scale):
    for estimator in ("group_no_std", "leave_one_out"):
        scaled = advantages_of([r * scale for r in rewards], estimator)
        expected = [a * scale for a in advantages_of(rewards, estimator)]
        assert scaled == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(rewards=REWARDS)
def test_leave_one_out_is_centred_times_g_over_g_minus_1(rewards):
    factor = len(rewards) / (len(rewards) - 1)
    expected = [a * factor for a in advantages_of(rewards, "group_no_std")]
    assert advantages_of(rewards, "leave_one_out") == pytest.approx(expected, abs=1e-9)


@given(rewards=REWARDS.filter(differing))
def test_standardised_advantages_have_unit_sample_variance(rewards):
    values = advantages_of(rewards, "group")
    assert math.fsum(v * v for v in values) / (len(values) - 1) == pytest.approx(1, rel=1e-2)


@given(rewards=REWARDS.filter(differing), data=st.data())
def test_the_order_inside_a_group_does_not_matter(rewards, data):
    order = data.draw(st.permutations(range(len(rewards))))
    for estimator in ADVANTAGES:
        values = advantages_of(rewards, estimator)
        permuted = advantages_of([rewards[i] for i in order], estimator)
        assert permuted == pytest.approx([values[i] for i in order], abs=1e-9)
