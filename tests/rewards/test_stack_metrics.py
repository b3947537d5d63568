"""Metrics of components, worked by hand."""

import pytest

from evolpo.rewards.base import Score
from evolpo.rewards.stack_metrics import component_metrics, correlations

SKIPPED, LATE = Score(None, "skipped"), Score(None, "timeout")


def test_shares_means_and_spread_by_hand():
    """Two groups: 1 and 3 spread by 1; the second has one value, which spreads by nothing and does not count."""
    scores = [Score(1.0, elapsed_s=0.1), Score(3.0, elapsed_s=0.3), SKIPPED, LATE, Score.model_fail("empty")]
    found = component_metrics(scores, [2, 3])
    assert found["mean"] == pytest.approx(4 / 3)
    assert found["spread"] == pytest.approx(1.0)
    assert found["unscored"] == found["model_fail"] == pytest.approx(1 / 4)
    assert found["skipped"] == pytest.approx(1 / 5)
    assert (found["seconds_p50"], found["seconds_p99"]) == (0.0, 0.3)


def test_nothing_is_said_of_a_component_that_was_not_asked():
    assert component_metrics([SKIPPED, SKIPPED], [2]) == {}


def test_correlations_by_hand():
    rising = [Score(float(i)) for i in range(4)]
    falling = [Score(-2.0 * i) for i in range(4)]
    partly = [Score(0.0), Score(1.0), LATE, Score(1.0)]
    constant = [Score(1.0)] * 4
    found = correlations(["a", "b", "c", "d"], [rising, falling, partly, constant])
    assert found["correlation/a/b"] == pytest.approx(-1.0)
    # a = 0, 1, 3 and c = 0, 1, 1: covariance 4/9, variances 14/9 and 2/9
    assert found["correlation/a/c"] == pytest.approx(4 / (14 * 2) ** 0.5)
    assert not any("d" in key.split("/") for key in found)
