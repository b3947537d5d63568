"""What a step measures besides the loss: seconds by phase, rewards, lengths, units."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from evolpo.rl.curriculum import Right, passed
from evolpo.rl.data import Group


class Timer:
    """Seconds by phase of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time inside the block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


def step_metrics(groups: Sequence[Group], units: Any, timer: Timer, world: int, right: Right) -> dict[str, float]:
    """Figures of the groups of a step on this rank, under their names in metrics.jsonl.

    Args:
        groups: scored.
        units: by group and response, the unit of each token.
        timer: holds the seconds of the step.
        world: number of ranks, each of which sampled about as many tokens.
        right: which responses count as right.
    """
    responses = [response for group in groups for response in group.responses]
    rewards = [reward for group in groups for reward in group.rewards if reward is not None]
    lengths = [len(response.token_ids) for response in responses]
    counts = [ids[-1] + 1 for group in units for ids in group if ids]
    seconds = sum(timer.seconds.values())
    metrics = {f"seconds/{phase}": value for phase, value in timer.seconds.items()}
    metrics |= {"seconds/step": seconds, "sync/seconds": timer.seconds["sync"]}
    if rewards:
        metrics |= {"reward/mean": float(np.mean(rewards)), "reward/std": float(np.std(rewards))}
    if responses:
        metrics |= {
            "response/tokens_mean": float(np.mean(lengths)),
            "response/tokens_max": float(max(lengths)),
            "response/truncated": float(np.mean([response.truncated for response in responses])),
            "units/per_response": float(np.mean(counts)),
            "units/tokens_mean": sum(lengths) / sum(counts),
            "tokens_per_s": sum(lengths) * world / seconds,
        }
    return metrics | _level_metrics(groups, right)


def _level_metrics(groups: Sequence[Group], right: Right) -> dict[str, float]:
    """Mean tokens and share of right responses by difficulty; levels without a response are left out."""
    metrics = {}
    for level in sorted({group.prompt.difficulty for group in groups} - {""}):
        part = [group for group in groups if group.prompt.difficulty == level]
        lengths = [len(response.token_ids) for group in part for response in group.responses]
        metrics[f"response/{level}/tokens_mean"] = float(np.mean(lengths))
        count, judged = passed(part, right)
        if judged:
            metrics[f"accuracy/{level}"] = count / judged
    return metrics
