"""Policy-gradient losses over linguistic units: one surrogate; an algorithm is a choice of unit and reduction.

A unit is a run of response tokens that shares one importance ratio: a token (GRPO, DAPO), a sentence (LPO) or the whole
response (GSPO). With d_t = log pi(y_t) - log pi_old(y_t), a unit s and the advantage A of its response:

    ratio      r_s = exp( mean of d_t over the tokens of s )
    surrogate  m_s = min( r_s * A , clip(r_s, 1 - clip_low, 1 + clip_high) * A )

A token carries the surrogate of its unit, so that a sum over tokens weighs a unit by its length |s|. The losses are the
negated surrogate, summed over tokens and divided by all tokens, or averaged over each response and then over responses.

Sources: LPO, Ling 2.0 report (arXiv 2510.22115) section 4.2.2; GRPO, arXiv 2402.03300; DAPO, arXiv 2503.14476;
GSPO, arXiv 2507.18071 eq. 5; KL estimators k1, k2, k3, Schulman, "Approximating KL divergence" (2020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Unit = Literal["given", "token", "sequence"]
Reduction = Literal["token_mean", "sequence_mean"]


def unit_mean(values: Tensor, mask: Tensor, units: Tensor, unit: Unit) -> Tensor:
    """Mean of `values` over each unit, written back to every token of the unit.

    Args:
        values: [B, T] float, zero where the mask is False.
        mask: [B, T] bool, True on response tokens.
        units: [B, T] int64, unit ids from 0 inside each row; read only if `unit` is "given".
        unit: what a unit is: the ids given, a token, or the whole response.

    Returns:
        [B, T] float; meaningless (but finite) where the mask is False.
    """
    if unit == "token":
        return values
    if unit == "sequence":
        lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)  # [B, 1]
        return (values.sum(dim=1, keepdim=True) / lengths).expand_as(values)
    ids = units.masked_fill(~mask, 0)
    sums = torch.zeros_like(values).scatter_add(1, ids, values)  # [B, unit]
    lengths = torch.zeros_like(values).scatter_add(1, ids, mask.to(values.dtype)).clamp(min=1)
    return (sums / lengths).gather(1, ids)


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


def reduce_tokens(values: Tensor, mask: Tensor, reduction: Reduction, denominator: float | Tensor | None) -> Tensor:
    """Reduce per-token values [B, T] to a scalar.

    `token_mean` divides the sum over response tokens by `denominator` tokens; `sequence_mean` divides the sum over
    responses of their token means by `denominator` responses. None counts those of this call; a trainer passes the
    count of the whole step, so that no split into micro-batches, steps or ranks changes the gradient.
    """
    values = values.masked_fill(~mask, 0.0)
    if reduction == "token_mean":
        return values.sum() / (mask.sum() if denominator is None else denominator)
    means = values.sum(dim=1) / mask.sum(dim=1).clamp(min=1)  # [B]
    return means.sum() / (len(means) if denominator is None else denominator)


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
    """A loss of `LOSSES`."""

    @property
    def reduction(self) -> Reduction:
        """What `denominator` counts: tokens or responses."""

    def __call__(  # noqa: D102 - documented at ClippedSurrogate
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


@dataclass(frozen=True)
class ClippedSurrogate:
    """The loss of the module's docstring for one choice of unit, reduction and default clip range."""

    unit: Unit
    reduction: Reduction
    default_clip_low: float
    default_clip_high: float

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
            mask: [B, T] bool, True on response tokens; whatever stands elsewhere is ignored.
            units: [B, T] int64, unit ids from 0, non-decreasing without gaps; only LPO reads them.
            clip_low: ratios under 1 - clip_low get no gradient from a negative advantage; None: the published range.
            clip_high: ratios over 1 + clip_high get no gradient from a positive advantage; None: the published range.
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
        log_ratio = (logprobs - old_logprobs).masked_fill(~mask, 0.0)
        ratio = unit_mean(log_ratio, mask, units, self.unit).exp()  # [B, T]
        advantage = advantages.unsqueeze(1)  # [B, 1]
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
        metrics = _ratio_metrics(ratio.detach(), advantage, mask, low, high)

        if correction != "none":
            if rollout_logprobs is None:
                raise ValueError(f"correction={correction!r} needs rollout_logprobs")
            gap = (old_logprobs - rollout_logprobs).detach().masked_fill(~mask, 0.0)
            weight = unit_mean(gap, mask, units, self.unit).exp()
            corrected = CORRECTIONS[correction](weight, correction_low, correction_high)
            surrogate = surrogate * corrected
            metrics["correction/mean"] = corrected[mask].mean()
            metrics["correction/changed"] = (corrected != weight)[mask].float().mean()

        loss = -reduce_tokens(surrogate, mask, self.reduction, denominator)
        if kl_coef != 0.0:
            if ref_logprobs is None:
                raise ValueError(f"kl_coef={kl_coef} needs ref_logprobs")
            kl = KL_ESTIMATORS[kl_estimator]((ref_logprobs - logprobs).masked_fill(~mask, 0.0))
            loss = loss + kl_coef * reduce_tokens(kl, mask, self.reduction, denominator)
            metrics["kl"] = kl.detach()[mask].mean()
        return loss, metrics


def _ratio_metrics(ratio: Tensor, advantage: Tensor, mask: Tensor, low: float, high: float) -> dict[str, Tensor]:
    clipped_low = (ratio < 1 - low) & (advantage < 0)
    clipped_high = (ratio > 1 + high) & (advantage > 0)
    inside = ratio[mask]
    if inside.numel() == 0:
        inside = ratio.new_ones(1)
    tokens = mask.sum().clamp(min=1)
    return {
        "ratio/mean": inside.mean(),
        "ratio/max": inside.max(),
        "ratio/min": inside.min(),
        "clip/low": (clipped_low & mask).sum() / tokens,
        "clip/high": (clipped_high & mask).sum() / tokens,
    }


LOSSES: Mapping[str, PolicyLoss] = {
    "lpo": ClippedSurrogate("given", "token_mean", 0.03, 0.03),
    "grpo": ClippedSurrogate("token", "sequence_mean", 0.2, 0.2),
    "dapo": ClippedSurrogate("token", "token_mean", 0.2, 0.28),
    "gspo": ClippedSurrogate("sequence", "sequence_mean", 3e-4, 4e-4),
    "gspo_token_mean": ClippedSurrogate("sequence", "token_mean", 3e-4, 4e-4),
}
"""Every algorithm by name, with the clip range its paper gives."""
