"""What is logged of the components of a reward: values, statuses, times, and how they relate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, combinations, pairwise

import numpy as np

from evolpo.rewards.base import Score
from evolpo.rewards.service.stats import quantile


def component_metrics(scores: Sequence[Score], sizes: Sequence[int]) -> dict[str, float]:
    """Metrics of one component over the responses it was asked about; none if it was asked about none.

    Args:
        scores: of all responses of a step.
        sizes: responses of each group.

    Returns:
        `mean`; `spread`, the standard deviation inside a group, averaged over groups: without it nothing is learned
        from the component; `unscored`, `model_fail`: shares by status; `skipped`: share of all responses;
        `seconds_p50`, `seconds_p99`; and the means of the reward's own metrics.
    """
    asked = [score for score in scores if score.status != "skipped"]
    if not asked:
        return {}
    seconds = sorted(score.elapsed_s for score in asked)
    statuses = Counter(score.status for score in asked)
    metrics = {
        "unscored": (statuses["infra_error"] + statuses["timeout"]) / len(asked),
        "model_fail": statuses["model_fail"] / len(asked),
        "skipped": 1 - len(asked) / len(scores),
        "seconds_p50": quantile(seconds, 0.5),
        "seconds_p99": quantile(seconds, 0.99),
    }
    groups = [scores[a:b] for a, b in pairwise(accumulate(sizes, initial=0))]
    values = [[score.value for score in group if score.value is not None] for group in groups]
    spreads = [float(np.std(group)) for group in values if len(group) > 1]
    if spreads:
        metrics["spread"] = float(np.mean(spreads))
    if any(values):
        metrics["mean"] = float(np.mean([value for group in values for value in group]))
    return metrics | _means(score.metrics for score in asked)


def correlations(names: Sequence[str], columns: Sequence[Sequence[Score]]) -> dict[str, float]:
    """Pearson correlation of each pair of components over the responses that both gave a value: `correlation/A/B`.

    Pairs of which one is constant, or that have fewer than three responses in common, have none.
    """
    found = {}
    for (first, one), (second, other) in combinations(zip(names, columns, strict=True), 2):
        pairs = [(a.value, b.value) for a, b in zip(one, other, strict=True)]
        both = [pair for pair in pairs if None not in pair]
        if len(both) < 3:
            continue
        x, y = np.array(both, dtype=np.float64).T
        if np.ptp(x) > 0 and np.ptp(y) > 0:
            found[f"correlation/{first}/{second}"] = float(np.corrcoef(x, y)[0, 1])
    return found


def _means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    columns: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return {key: sum(values) / len(values) for key, values in columns.items()}
