"""Every algorithm by name; all but CISPO are one clipped surrogate and differ in unit and reduction.

With the importance ratio r_s of a unit s and the advantage A of its response, its surrogate is

    m_s = min( r_s * A , clip(r_s, 1 - clip_low, 1 + clip_high) * A )

and the loss the negated sum of |s| m_s over units, divided by all tokens (`token_mean`), or by those of each response
and then averaged over responses (`sequence_mean`). `evolpo.rl.policy_loss` has what all losses share.

Sources: LPO, Ling 2.0 report (arXiv 2510.22115) section 4.2.2; GRPO, arXiv 2402.03300; DAPO, arXiv 2503.14476;
GSPO, arXiv 2507.18071 eq. 5; CISPO, arXiv 2506.13585 eq. 4.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from evolpo.rl.cispo import CISPO
from evolpo.rl.policy_loss import (
    CORRECTIONS,
    KL_ESTIMATORS,
    LossOptions,
    PolicyLoss,
    Reduction,
    Surrogate,
    UnitLoss,
    reduce_tokens,
)
from evolpo.rl.units import Units

__all__ = [
    "CORRECTIONS",
    "KL_ESTIMATORS",
    "LOSSES",
    "ClippedSurrogate",
    "LossOptions",
    "PolicyLoss",
    "Reduction",
    "reduce_tokens",
]


class ClippedSurrogate(UnitLoss):
    """The loss of the module's docstring for one choice of unit, reduction and default clip range."""

    def surrogate(
        self, ratio: Tensor, advantage: Tensor, low: float, high: float, logprobs: Tensor, units: Units
    ) -> Surrogate:
        """Take from a unit its gradient once its ratio has left the range on the side that its advantage pulls to."""
        return Surrogate(
            torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage),
            (ratio < 1 - low) & (advantage < 0),
            (ratio > 1 + high) & (advantage > 0),
        )


LOSSES: Mapping[str, PolicyLoss] = {
    "lpo": ClippedSurrogate("given", "token_mean", 0.03, 0.03),
    "grpo": ClippedSurrogate("token", "sequence_mean", 0.2, 0.2),
    "dapo": ClippedSurrogate("token", "token_mean", 0.2, 0.28),
    "gspo": ClippedSurrogate("sequence", "sequence_mean", 3e-4, 4e-4),
    "gspo_token_mean": ClippedSurrogate("sequence", "token_mean", 3e-4, 4e-4),
    "cispo": CISPO,
}
"""Every algorithm by name, with the published clip range."""
