"""Short answers are worth more than long ones, where they are right: the dynamic length reward.

Source: Ling 2.0 report, section 4.2 (Evo-CoT).

    R_length = alpha * Rhat,  p(l) = 0.5 - (l - l_min) / (l_max - l_min + 1e-9) over the group,
    Rhat = p(l) if the response is correct, min(p(l), 0) if not

alpha is large for easy prompts and small for hard ones, which may think longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from evolpo.rewards.base import Sample, Scope, Score
from evolpo.rewards.fit import why_unfit
from evolpo.rewards.registry import load_reward
from evolpo.rl.data import LENGTH_ALPHA, Prompt

Kind = Literal["dynamic", "plain"]


def brevity(lengths: Sequence[int]) -> list[float]:
    """p(l) of each response of a group: 0.5 for the shortest, -0.5 for the longest, 0.5 for all if they are equal."""
    shortest, longest = min(lengths), max(lengths)
    return [0.5 - (length - shortest) / (longest - shortest + 1e-9) for length in lengths]


class LengthReward:
    """The length part of Evo-CoT's reward; stands beside the reward of correctness and has its own copy of it."""

    name = "length"
    scope: Scope = "group"

    def __init__(
        self,
        correct: str = "reasoning_gym",
        alpha: float | Mapping[str, float] = 0.2,
        kind: Kind = "dynamic",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises InputError if there is no such reward, ValueError for an unknown kind or a negative alpha.

        Args:
            correct: reward that tells what is correct: a value above 0.
            alpha: strength, one number or one by difficulty; a difficulty that is not listed has none. What the
                curriculum puts into a prompt's metadata goes before it.
            kind: `dynamic` is the formula above; `plain` takes p(l) whether the response is correct or not.
            options: of the reward `correct`.
        """
        if kind not in ("dynamic", "plain"):
            raise ValueError(f"kind {kind!r} is neither dynamic nor plain")
        strengths = alpha.values() if isinstance(alpha, Mapping) else [alpha]
        if any(strength < 0 for strength in strengths):
            raise ValueError(f"alpha {alpha} is negative; it would reward length")
        self._correct = load_reward(correct, "correct", options)
        self._alpha, self._kind = alpha, kind

    def needs(self, prompt: Prompt) -> str | None:
        """What the reward of correctness needs."""
        return why_unfit(self._correct, prompt)

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Judge the responses to one prompt; where correctness is unknown through our fault, so is this."""
        if not samples:
            return []
        correct = await self._correct.score(samples)
        shares = brevity([sample.token_count for sample in samples])
        return [self._one(*given) for given in zip(samples, correct, shares, strict=True)]

    def _one(self, sample: Sample, correct: Score, share: float) -> Score:
        if correct.value is None:
            return Score(None, correct.status, artifacts=correct.artifacts)
        if self._kind == "dynamic" and correct.value <= 0:
            share = min(share, 0.0)
        alpha = self._strength(sample)
        return Score(alpha * share, metrics={"alpha": alpha, "share": share})

    def _strength(self, sample: Sample) -> float:
        if LENGTH_ALPHA in sample.metadata:
            return float(sample.metadata[LENGTH_ALPHA])
        if isinstance(self._alpha, Mapping):
            return float(self._alpha.get(sample.difficulty, 0.0))
        return float(self._alpha)
