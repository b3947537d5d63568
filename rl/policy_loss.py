"""What every policy-gradient loss over units shares: ratios, correction, KL penalty, denominators and metrics.

A unit is a run of response tokens that shares one importance ratio: a token (GRPO, DAPO, CISPO), a sentence (LPO) or
the whole response (GSPO). With d_t = log pi(y_t) - log pi_old(y_t), the ratio of a unit s is

    r_s = exp( mean of d_t over the tokens of s )

An algorithm says what a unit is, and gives its surrogate m_s, which is to be made large. A token carries the surrogate
of its unit, so that a sum over tokens weighs a unit by its length |s|. The loss is the negated sum of |s| m_s, divided
by all tokens, or by those of each response and then averaged over responses.

Sources: KL estimators k1, k2, k3, Schulman, "Approximating KL divergence" (2020).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from evolpo.rl.units import Unit, Units

Reduction = Literal["token_mean", "sequence_mean"]


def _k1(log_ratio: Tensor) -> Tensor:
    return -log_ratio


def _k2(log_ratio: Tensor) -> Tensor:
    return 0.5 * log_ratio.square()


def _k3(log_ratio: Tensor) -> Tensor:
    return log_ratio.exp() - log_ratio - 1


KL_ESTIMATORS: Mapping[str, Callable[[Tensor], Tensor]] = {"k1": _k1, "k2": _k2, "k3": _k3}
"""Estimators of KL(pi || pi_ref) as functions of log pi_ref - log pi. The gradient of k1 as a loss has mean zero."""


def _tis(weight: Tensor, low: float, high: float) -> Tensor:
    return weight.clamp(max=high)


def _icepop(weight: Tensor, low: float, high: float) -> Tensor:
    return torch.where((weight >= low) & (weight <= high), weight, 0.0)


CORRECTIONS: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {"tis": _tis, "icepop": _icepop}
"""Truncated importance sampling, and masking (IcePop), of the weight exp(mean log-gap), trainer against engine."""


def reduce_units(
    values: Tensor, lengths: Tensor, reduction: Reduction, denominator: float | Tensor | None = None
) -> Tensor:
    """Reduce values [B, U] of units to a scalar, each as often as the unit has tokens (`lengths`, [B, U]).

    `token_mean` divides the sum over response tokens by `denominator` tokens; `sequence_mean` divides the sum over
    responses of their token means by `denominator` responses. None counts those of this call; a trainer passes the
    count of the whole step, so that no split into micro-batches, steps or ranks changes the gradient.
    """
    weighted = values * lengths
    if reduction == "token_mean":
        return weighted.sum() / (lengths.sum() if denominator is None else denominator)
    means = weighted.sum(dim=1) / lengths.sum(dim=1).clamp(min=1)  # [B]
    return means.sum() / (len(means) if denominator is None else denominator)


def reduce_tokens(values: Tensor, mask: Tensor, reduction: Reduction, denominator: float | Tensor | None) -> Tensor:
    """Reduce values [B, T] of tokens to a scalar, as `reduce_units` does; what stands outside the mask is ignored."""
    return reduce_units(values.masked_fill(~mask, 0.0), mask.float(), reduction, denominator)


@dataclass(frozen=True)
class LossOptions:
    """Keyword arguments of a loss that stay the same for a whole run."""

    clip_low: float | None = None
    clip_high: float | None = None
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    correction: str = "none"
    correction_low: float = 0.5
    correction_high: float = 2.0


class PolicyLoss(Protocol):
    """What a trainer can minimise; every loss of `evolpo.rl.losses.LOSSES` is one."""

    @property
    def reduction(self) -> Reduction:
        """What `denominator` counts: tokens or responses."""

    def __call__(  # noqa: D102 - documented at UnitLoss
        self,
        logprobs: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        units: Tensor,
        clip_low: float | None = None,
        clip_high: float | None = None,
        *,
        denominator: float | Tensor | None = None,
        ref_logprobs: Tensor | None = None,
        kl_coef: float = 0.0,
        kl_estimator: str = "k3",
        rollout_logprobs: Tensor | None = None,
        correction: str = "none",
        correction_low: float = 0.5,
        correction_high: float = 2.0,
    ) -> tuple[Tensor, dict[str, Tensor]]: ...


class Surrogate(NamedTuple):
    """The surrogate of every unit, and where it was clipped."""

    values: Tensor  # [B, U]
    clipped_low: Tensor  # [B, U] bool
    clipped_high: Tensor  # [B, U] bool


@dataclass(frozen=True)
class UnitLoss(ABC):
    """A loss by units: an algorithm is a subclass that gives the surrogate of a unit."""

    unit: Unit
    reduction: Reduction
    default_clip_low: float
    default_clip_high: float

    @abstractmethod
    def surrogate(
        self, ratio: Tensor, advantage: Tensor, low: float, high: float, logprobs: Tensor, units: Units
    ) -> Surrogate:
        """Give what is to be made large.

        Args:
            ratio: [B, U] importance ratio of each unit, with gradient; 1 for a unit without tokens.
            advantage: [B, 1].
            low: clip range below 1.
            high: clip range above 1.
            logprobs: [B, T] log-probabilities of the tokens in nats, with gradient; anything outside the mask.
            units: `units.mean` takes a mean over the tokens of each unit.
        """

    def __call__(
        self,
        logprobs: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        units: Tensor,
        clip_low: float | None = None,
        clip_high: float | None = None,
        *,
        denominator: float | Tensor | None = None,
        ref_logprobs: Tensor | None = None,
        kl_coef: float = 0.0,
        kl_estimator: str = "k3",
        rollout_logprobs: Tensor | None = None,
        correction: str = "none",
        correction_low: float = 0.5,
        correction_high: float = 2.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss to minimise, and what to log.

        Args:
            logprobs: [B, T] float, log-probabilities of the response tokens under the policy, in nats, with gradient.
            old_logprobs: [B, T] float, the same under the policy that sampled, as the trainer computes them.
            advantages: [B] float.
            mask: [B, T] bool, True on response tokens, of which there is at least one; whatever stands elsewhere is
                ignored.
            units: [B, T] int64, unit ids from 0, non-decreasing without gaps; only LPO reads them.
            clip_low: the clip range is 1 - clip_low to 1 + clip_high; None: the published one.
            clip_high: see `clip_low`.
            denominator: tokens (or responses, by reduction) of the whole step; None: those of this call.
            ref_logprobs: [B, T] float, log-probabilities under the reference policy; needed if kl_coef is not 0.
            kl_coef: weight (beta) of the KL penalty towards the reference policy.
            kl_estimator: a key of `KL_ESTIMATORS`.
            rollout_logprobs: [B, T] float, the rollout engine's own log-probabilities; needed for a correction.
            correction: "none", or a key of `CORRECTIONS`; weighs a unit by exp(mean log-gap), never by exp(sum).
            correction_low: IcePop drops units whose weight is lower.
            correction_high: TIS cuts weights at this value; IcePop drops units whose weight is higher.

        Returns:
            The scalar loss, and detached scalars: `ratio/mean`, `ratio/max`, `ratio/min`, `clip/low`, `clip/high`
            (shares of tokens), and `kl`, `correction/mean`, `correction/changed` where asked for.

        Raises:
            KeyError: unknown `kl_estimator` or `correction`.
            ValueError: reference or rollout log-probabilities are needed and missing.
        """
        low = self.default_clip_low if clip_low is None else clip_low
        high = self.default_clip_high if clip_high is None else clip_high
        spans = Units(mask, units, self.unit)
        ratio = spans.mean(logprobs - old_logprobs).exp()  # [B, U]
        surrogate = self.surrogate(ratio, advantages.unsqueeze(1), low, high, logprobs, spans)
        values = surrogate.values
        metrics = _metrics(ratio.detach(), surrogate, spans.lengths)

        if correction != "none":
            if rollout_logprobs is None:
                raise ValueError(f"correction={correction!r} needs rollout_logprobs")
            weight = spans.mean((old_logprobs - rollout_logprobs).detach()).exp()
            corrected = CORRECTIONS[correction](weight, correction_low, correction_high)
            values = values * corrected
            metrics["correction/mean"] = _token_mean(corrected, spans.lengths)
            metrics["correction/changed"] = _token_mean(corrected != weight, spans.lengths)

        loss = -reduce_units(values, spans.lengths, self.reduction, denominator)
        if kl_coef != 0.0:
            if ref_logprobs is None:
                raise ValueError(f"kl_coef={kl_coef} needs ref_logprobs")
            kl = KL_ESTIMATORS[kl_estimator]((ref_logprobs - logprobs).masked_fill(~mask, 0.0))
            loss = loss + kl_coef * reduce_tokens(kl, mask, self.reduction, denominator)
            metrics["kl"] = _token_mean(kl.detach(), mask.float())
        return loss, metrics


def _token_mean(values: Tensor, lengths: Tensor) -> Tensor:
    return reduce_units(values, lengths, "token_mean")


def _metrics(ratio: Tensor, surrogate: Surrogate, lengths: Tensor) -> dict[str, Tensor]:
    """Metrics of every loss; ratio and lengths [B, U]."""
    # The largest and the smallest are of units that exist: places without tokens take the ratio of one that has some.
    real = torch.where(lengths > 0, ratio, ratio.flatten().index_select(0, lengths.argmax().view(1)))
    return {
        "ratio/mean": _token_mean(ratio, lengths),
        "ratio/max": real.max(),
        "ratio/min": real.min(),
        "clip/low": _token_mean(surrogate.clipped_low, lengths),
        "clip/high": _token_mean(surrogate.clipped_high, lengths),
    }
