"""The algorithm of a run: its configuration, and how scored groups become a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolpo import InputError
from evolpo.rl.advantages import ADVANTAGES
from evolpo.rl.data import Batch, Group, Row
from evolpo.rl.losses import CORRECTIONS, KL_ESTIMATORS, LOSSES, LossOptions
from evolpo.rl.segment import get_segmenter


@dataclass
class AlgorithmConfig:
    """Which loss, over which units, with which advantages."""

    name: str = "lpo"
    """A key of `LOSSES`: lpo, grpo, dapo, gspo, gspo_token_mean, cispo."""
    units: str = "punctuation"
    """Segmenter of LPO: punctuation, two_sentences, punkt, token, sequence, or `module:attribute`."""
    advantage: str = "group"
    """A key of `ADVANTAGES`: group, group_no_std, leave_one_out, dr_grpo."""
    clip_low: float | None = None
    """Lower clip range; empty: the algorithm's published one."""
    clip_high: float | None = None
    """Upper clip range; empty: the algorithm's published one."""
    optimizer_steps: int = 1
    """Optimizer steps a rollout; from the second on, samples are off-policy and clipping acts."""
    kl_coef: float = 0.0
    """Weight of the KL penalty towards the starting policy; 0 loads no reference model."""
    kl_estimator: str = "k3"
    """k1, k2 or k3."""
    correction: str = "none"
    """What to do about the log-probability gap between rollout engine and trainer: none, tis or icepop."""
    correction_low: float = 0.5
    """IcePop drops units whose weight is lower."""
    correction_high: float = 2.0
    """TIS cuts weights here; IcePop drops units whose weight is higher."""
    mask_truncated: bool = False
    """Leave responses that hit the token budget out of the loss; they still count in their group's baseline."""
    max_refills: int = 0
    """Dynamic sampling: how often to replace groups without signal by fresh prompts; 0 keeps and skips them."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        known: dict[str, tuple[str, Any]] = {
            "name": (self.name, LOSSES),
            "advantage": (self.advantage, ADVANTAGES),
            "kl_estimator": (self.kl_estimator, KL_ESTIMATORS),
            "correction": (self.correction, ["none", *CORRECTIONS]),
        }
        for field, (value, choices) in known.items():
            if value not in choices:
                raise InputError(f"algorithm.{field}: {value!r} is none of {', '.join(choices)}")
        get_segmenter(self.units)
        for field in ("clip_low", "clip_high"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise InputError(f"algorithm.{field}: {value} is not positive; leave it empty for the published range")
        if self.optimizer_steps < 1:
            raise InputError(f"algorithm.optimizer_steps: {self.optimizer_steps} is less than 1")
        if self.kl_coef < 0:
            raise InputError(f"algorithm.kl_coef: {self.kl_coef} is negative; 0 switches the penalty off")
        if self.max_refills < 0:
            raise InputError(f"algorithm.max_refills: {self.max_refills} is negative; 0 never refills")
        if not 0 <= self.correction_low < self.correction_high:
            raise InputError("algorithm.correction_low: must be at least 0 and below algorithm.correction_high")

    def loss_options(self) -> LossOptions:
        """The keyword arguments of the loss."""
        return LossOptions(
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            kl_coef=self.kl_coef,
            kl_estimator=self.kl_estimator,
            correction=self.correction,
            correction_low=self.correction_low,
            correction_high=self.correction_high,
        )


def build_batch(
    groups: Sequence[Group],
    units: Sequence[Sequence[Sequence[int]]],
    advantages: Sequence[Sequence[float | None]],
    *,
    mask_truncated: bool = False,
) -> Batch:
    """Rows of all responses that have an advantage.

    Left out: responses that could not be scored, empty ones, and, with `mask_truncated`, those cut off at the budget.

    Args:
        groups: scored groups.
        units: unit ids by group, response and token.
        advantages: by group and response; None where the response could not be scored.
        mask_truncated: leave truncated responses out.
    """
    rows = [
        Row(index, group.prompt.token_ids, response.token_ids, tuple(ids), advantage, response.logprobs)
        for index, (group, group_units, group_advantages) in enumerate(zip(groups, units, advantages, strict=True))
        for response, ids, advantage in zip(group.responses, group_units, group_advantages, strict=True)
        if advantage is not None and response.token_ids and not (mask_truncated and response.truncated)
    ]
    return Batch(tuple(rows))


def segment(groups: Sequence[Group], config: AlgorithmConfig, tokenizer: Any) -> list[list[list[int]]]:
    """Unit ids of every token of every response, by group."""
    segmenter = get_segmenter(config.units)
    return [[segmenter(response.token_ids, tokenizer) for response in group.responses] for group in groups]
