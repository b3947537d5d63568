"""Rewards for the form of a response."""

from __future__ import annotations

from evolpo.rewards.answers.extract import boxed_contents
from evolpo.rewards.base import Sample, sample_reward

THINK_MARKER = "<think>"
MARKER_PENALTY = -0.5


@sample_reward
def instant_format(sample: Sample) -> float:
    """R_format of Evo-CoT (Ling 2.0 report, section 4.2): -0.5 for an explicit `<think>` in instant mode, else 0."""
    return MARKER_PENALTY if THINK_MARKER in sample.text else 0.0


@sample_reward
def boxed_format(sample: Sample) -> float:
    r"""1 if the response ended by itself and holds exactly one `\boxed{...}`, which is not empty; else 0."""
    boxes = boxed_contents(sample.text)
    return float(not sample.truncated and len(boxes) == 1 and bool(boxes[0]))
