"""Accuracy, pass@k and their intervals."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from evolpo import InputError
from evolpo.recipes.runs.evaluation import (
    EvaluationConfig,
    Judged,
    evaluation_metrics,
    mean_interval,
    paired_gain,
    pass_at_k,
    read_judged,
    write_judged,
)


@pytest.mark.parametrize(
    ("samples", "correct", "k"), [(5, 0, 1), (5, 2, 1), (5, 2, 3), (6, 4, 2), (4, 4, 4), (7, 1, 7)]
)
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(samples: int, correct: int, k: int) -> None:
    draws = list(itertools.combinations(range(samples), k))
    share = sum(any(i < correct for i in draw) for draw in draws) / len(draws)
    assert pass_at_k(samples, correct, k) == pytest.approx(share, abs=1e-12)


def test_wilson_interval_of_shares() -> None:
    # Hand-worked with z = 1.959964: 8 of 10.
    assert mean_interval([1.0] * 8 + [0.0] * 2) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert mean_interval([0.0] * 300)[1] == pytest.approx(0.012642971, abs=1e-8)


def test_bootstrap_interval_covers_the_mean() -> None:
    values = np.random.default_rng(0).uniform(size=200).tolist()
    low, high = mean_interval(values)
    assert low < float(np.mean(values)) < high
    assert high - low == pytest.approx(2 * 1.96 * np.std(values) / 200**0.5, rel=0.1)


def test_paired_gain_pairs_by_problem() -> None:
    before = [Judged(str(i), "easy", int(i < 30), 1, 5.0) for i in range(300)]
    after = [Judged(str(i), "easy", int(i < 120), 1, 9.0) for i in reversed(range(300))]
    gain, (low, high) = paired_gain(before, after)
    assert gain == pytest.approx(0.3)
    half = 1.96 * (0.3 * 0.7 / 300) ** 0.5
    assert low == pytest.approx(0.3 - half, abs=0.01)
    assert high == pytest.approx(0.3 + half, abs=0.01)
    assert paired_gain(before, before) == (0.0, (0.0, 0.0))


def test_metrics_and_files(tmp_path: Path) -> None:
    judged = [Judged("a", "easy", 2, 2, 4.0), Judged("b", "hard", 1, 2, 8.0), Judged("c", "hard", 0, 2, 6.0)]
    metrics = evaluation_metrics(judged, EvaluationConfig(samples=2, pass_at=[1, 2]))
    assert metrics["eval/accuracy"] == pytest.approx(0.5)
    assert metrics["eval/pass@1"] == pytest.approx(0.5)
    assert metrics["eval/pass@2"] == pytest.approx(2 / 3)
    assert metrics["eval/hard/accuracy"] == pytest.approx(0.25)
    assert metrics["eval/tokens_mean"] == pytest.approx(6.0)
    write_judged(tmp_path / "evaluations" / "step_0.jsonl", judged)
    assert read_judged(tmp_path / "evaluations" / "step_0.jsonl") == judged


def test_bad_fields() -> None:
    with pytest.raises(InputError, match=r"evaluation\.pass_at: 4 is not between 1 and evaluation\.samples \(2\)"):
        EvaluationConfig(samples=2, pass_at=[4])
