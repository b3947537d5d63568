"""CISPO: the importance ratio is clipped as a weight, so that no token ever loses its gradient.

For every token t of a response with advantage A

    m_t = stop_gradient( clip(r_t, 1 - clip_low, 1 + clip_high) ) * A * log pi(y_t)

summed over tokens and divided by all tokens. Source: MiniMax-M1 report (arXiv 2506.13585), section 3.1, eq. 4 and 5.
The report leaves the weight without a lower bound and does not give the upper one; 5 is that of ScaleRL (arXiv
2510.13786), and what TRL recommends.
"""

from __future__ import annotations

from torch import Tensor

from evolpo.rl.policy_loss import Surrogate, UnitLoss
from evolpo.rl.units import Units


class ClippedWeight(UnitLoss):
    """The loss of the module's docstring; `clip/low` and `clip/high` count weights cut for an advantage of any sign."""

    def surrogate(
        self, ratio: Tensor, advantage: Tensor, low: float, high: float, logprobs: Tensor, units: Units
    ) -> Surrogate:
        """Weigh the log-probability of each unit (a mean over its tokens) by its clipped ratio."""
        ratio = ratio.detach()
        weight = ratio.clamp(1 - low, 1 + high)
        return Surrogate(weight * advantage * units.mean(logprobs), ratio < 1 - low, ratio > 1 + high)


CISPO = ClippedWeight("token", "token_mean", default_clip_low=1.0, default_clip_high=4.0)
