"""How steadily a run trained, from its metrics: collapse, drawdown, clipping, ratio tails, gradient spikes.

All figures of the reward use the *training reward*, smoothed where it says so by the mean over the last `WINDOW` steps.
Drawdown and the spread of changes from step to step are measures of risk and dispersion across time in Chan et al.,
"Measuring the Reliability of Reinforcement Learning Algorithms" (arXiv 1912.05663, section 3), there as an expected
shortfall and an interquartile range, here as the worst fall and a standard deviation. The other definitions are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolpo.recipes.drawing.charts import Floats, finite, series

Records = Sequence[Mapping[str, Any]]

WINDOW = 5
"""Steps over which the training reward is averaged."""
COLLAPSE_SHARE = 0.5
"""A run whose smoothed reward is below this share of its best so far has collapsed, if it stays there."""
COLLAPSE_STEPS = 10
"""How many steps in a row are staying."""
COLLAPSE_FALL = 0.05
"""A smaller fall is noise, as in a run that never earned more than a little."""
CLIP = ("clip/low", "clip/high")
"""Shares of response tokens whose unit was clipped, below and above."""
SPIKE = 5.0
"""A gradient norm over this multiple of the running median is a spike."""
SPIKE_STEPS, SPIKE_KNOWN = 20, 5
"""Steps before a step whose median counts, and how many of them must be known."""


@dataclass(frozen=True)
class Stability:
    """How steadily a run trained; None is what its metrics do not say."""

    collapsed: bool
    """Some loss was not finite; or the smoothed reward lay below half of its best so far, by 0.05 at least, at the last
    step or for ten steps in a row."""
    collapse: str
    """Why and when, in words; empty if it did not collapse."""
    max_drawdown: float | None
    """Largest fall of the smoothed reward from its best so far, in units of reward."""
    reward_spread: float | None
    """Standard deviation of the change of the reward, not smoothed, from step to step."""
    clip_mean: float | None
    """Mean over steps of the share of response tokens whose unit was clipped, on either side."""
    clip_max: float | None
    """Largest such share of a step."""
    ratio_max: float | None
    """Largest importance ratio of any unit in any step."""
    ratio_min: float | None
    """Smallest one."""
    grad_spikes: int | None
    """Steps whose gradient norm, before clipping, exceeds five times the median of the 20 steps before it."""
    logprob_gap_mean: float | None
    """Mean over steps of the mean gap between trainer and rollout engine, in nats a token."""
    logprob_gap_max: float | None
    """Largest gap of any token in any step, in nats."""


def training_key(runs: Sequence[tuple[Records, Mapping[str, Any]]]) -> str:
    """Which metric is the training reward of runs that are to be compared: one for all of them.

    `accuracy` if every run logs it. Else `reward/mean`, the mean over the responses of a step, unless a run uses
    dynamic sampling: there groups of equal rewards are replaced, `reward/mean` covers only those kept, which pulls it
    towards one half, and a step that keeps none logs none, so that a collapse would not show. Then the mean of the
    first reward component serves all runs: it covers every response of the step's last draw.

    Args:
        runs: records and configuration of each.
    """
    logged = [{key for record in records for key in record} for records, _ in runs]
    if logged and all("accuracy" in keys for keys in logged):
        return "accuracy"
    if any(config.get("algorithm", {}).get("max_refills") for _, config in runs):
        for records, _ in runs:
            for record in records:
                # Records keep the order of the reward stack.
                first = next((key for key in record if re.fullmatch(r"reward/.+/mean", key)), None)
                if first:
                    return first
    return "reward/mean"


def smoothed(records: Records, *keys: str) -> dict[int, float]:
    """Mean of a metric over the last `WINDOW` steps by step, from the first full window on; of several keys, their sum.

    Steps whose value is not known are skipped. A run of fewer steps has one window: all of it.
    """
    steps, values = _measured(records, *keys)
    if not len(values):
        return {}
    width = min(WINDOW, len(values))
    means = np.convolve(values, np.ones(width) / width, "valid")
    return {int(step): float(mean) for step, mean in zip(steps[width - 1 :], means, strict=True)}


def stability(records: Records, key: str) -> Stability:
    """Judge a run by its records.

    Args:
        records: `metrics.jsonl`, one object a step, in their order.
        key: the training reward, from `training_key`.
    """
    mean = smoothed(records, key)
    values = np.array(list(mean.values()))
    peaks = np.maximum.accumulate(values) if len(values) else values
    collapse = _broken_loss(records) or _fallen(list(mean), values, peaks)
    rewards = _measured(records, key)[1]
    clipped = _measured(records, *CLIP)[1]
    return Stability(
        collapsed=bool(collapse),
        collapse=collapse,
        max_drawdown=_reduced(np.max, peaks - values),
        reward_spread=float(np.std(np.diff(rewards), ddof=1)) if len(rewards) > 2 else None,
        clip_mean=_reduced(np.mean, clipped),
        clip_max=_reduced(np.max, clipped),
        ratio_max=_reduced(np.max, series(records, "ratio/max")),
        ratio_min=_reduced(np.min, series(records, "ratio/min")),
        grad_spikes=_spikes(_known(series(records, "grad_norm"))),
        logprob_gap_mean=_reduced(np.mean, series(records, "logprob_gap/mean")),
        logprob_gap_max=_reduced(np.max, series(records, "logprob_gap/max")),
    )


def _known(values: Floats) -> Floats:
    known: Floats = values[np.isfinite(values)]
    return known


def _reduced(reduce: Any, values: Floats) -> float | None:
    known = _known(values)
    return float(reduce(known)) if len(known) else None


def _measured(records: Records, *keys: str) -> tuple[Floats, Floats]:
    """Steps and values, summed over keys, where they are known."""
    values = np.sum([series(records, key) for key in keys], axis=0)
    known = np.isfinite(values)
    return series(records, "step")[known], values[known]


def _broken_loss(records: Records) -> str:
    for record in records:
        if "loss" in record and not finite(record["loss"]):
            return f"loss not finite at step {record['step']}"
    return ""


def _fallen(steps: Sequence[int], values: Floats, peaks: Floats) -> str:
    """Where the smoothed reward fell and stayed, if it did."""
    low = (values < COLLAPSE_SHARE * peaks) & (peaks - values >= COLLAPSE_FALL)
    start = 0
    for index, is_low in enumerate(low):
        if not is_low:
            start = index + 1
        elif index - start + 1 >= COLLAPSE_STEPS or index == len(low) - 1:
            return f"reward below half of {peaks[start]:.2f} from step {steps[start]} on"
    return ""


def _spikes(norms: Floats) -> int | None:
    if len(norms) <= SPIKE_KNOWN:
        return None
    later = range(SPIKE_KNOWN, len(norms))
    return sum(bool(norms[i] > SPIKE * np.median(norms[max(0, i - SPIKE_STEPS) : i])) for i in later)
