"""The dynamic length reward: examples worked by hand, and what holds for every group."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolpo import InputError
from evolpo.rewards.base import sample_reward
from evolpo.rewards.length import LengthReward, brevity
from evolpo.rewards.testing import make_sample


@sample_reward
def is_right(sample):
    if sample.text == "broken":
        raise RuntimeError("no verdict")
    return float(sample.text == "right")


def reward(**options):
    return LengthReward(correct="test_length:is_right", **options)


def values(given, **options):
    """Values of a group of (text, tokens)."""
    samples = [make_sample(text=text, token_count=count) for text, count in given]
    return [score.value for score in asyncio.run(reward(**options).score(samples))]


def test_by_hand():
    """Lengths 10, 20, 30: p = 0.5, 0, -0.5. A wrong short response gains nothing, a wrong long one loses."""
    group = [("right", 10), ("right", 20), ("right", 30), ("wrong", 10), ("wrong", 30)]
    assert values(group, alpha=0.4) == pytest.approx([0.2, 0.0, -0.2, 0.0, -0.2], abs=1e-9)
    assert values(group, alpha=0.4, kind="plain") == pytest.approx([0.2, 0.0, -0.2, 0.2, -0.2], abs=1e-9)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ([("right", 7), ("right", 7), ("wrong", 7)], [0.5, 0.5, 0.0]),  # all of one length
        ([("wrong", 5), ("wrong", 15)], [0.0, -0.5]),  # all wrong
        ([("right", 12)], [0.5]),
        ([("wrong", 12)], [0.0]),
    ],
)
def test_edges_by_hand(group, expected):
    assert values(group, alpha=1.0) == pytest.approx(expected)


def test_alpha_by_difficulty_and_by_stage():
    samples = [make_sample(text="right", difficulty=name) for name in ("easy", "hard", "unheard-of")]
    by_difficulty = reward(alpha={"easy": 0.4, "hard": 0.1})
    found = [asyncio.run(by_difficulty.score([one]))[0].value for one in samples]
    assert found == pytest.approx([0.2, 0.05, 0.0])
    staged = make_sample(text="right", difficulty="easy", metadata={"length_alpha": 0.02})
    assert asyncio.run(by_difficulty.score([staged]))[0].value == pytest.approx(0.01)


def test_no_verdict_no_value():
    samples = [make_sample(text=text, token_count=9) for text in ("right", "broken")]
    right, broken = asyncio.run(reward().score(samples))
    assert right.value == pytest.approx(0.1)
    assert (broken.value, broken.status) == (None, "infra_error")
    assert "no verdict" in broken.error


@given(lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=16))
def test_shares_fall_with_length_between_their_bounds(lengths):
    shares = brevity(lengths)
    assert all(-0.5 - 1e-6 <= share <= 0.5 for share in shares)
    for a, b in zip(lengths, shares, strict=True):
        assert all((b >= other) == (a <= length) for length, other in zip(lengths, shares, strict=True))


def test_wrong_settings():
    with pytest.raises(ValueError, match="would reward length"):
        reward(alpha={"easy": -0.1})
    with pytest.raises(ValueError, match="neither dynamic nor plain"):
        reward(kind="cubic")
    with pytest.raises(InputError, match="correct: no reward is called"):
        LengthReward(correct="nothing")
