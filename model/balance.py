"""Balance of the experts' load without an auxiliary loss (Ling 2.0 report, section 2.1).

After an optimizer step the bias of an expert that had less than the mean load rises by a small fixed amount, and that
of one that had more falls. The bias acts on which experts are chosen, not on their weights, and has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class BalanceMetrics:
    """The load of one optimizer step, over all layers with experts."""

    worst_violation: float
    """Largest (load - mean) / mean of any expert; 0 is even, E / k - 1 is all on the same."""
    dead_experts: float
    """Experts that no token chose."""
    bias_spread: float
    """Largest difference between two biases of a layer."""


def updated_bias(bias: Tensor, load: Tensor, rate: float) -> Tensor:
    """b + u * (sign(e) - mean(sign(e))) with e = mean load - load: the mean of the biases stays as it is.

    Args:
        bias: [..., E] float32.
        load: [..., E] tokens an expert had.
        rate: u, 1e-3 in the report (1e-4 after context extension).
    """
    load = load.to(torch.float64)
    sign = (load.mean(dim=-1, keepdim=True) - load).sign()
    return bias + rate * (sign - sign.mean(dim=-1, keepdim=True)).to(bias.dtype)


class Balanced(Protocol):
    """A router whose load is evened out."""

    expert_bias: Tensor
    """[E] float32."""
    load: Tensor
    """[E] tokens since the last update."""


@torch.no_grad()
def balance(found: Sequence[Balanced], rate: float) -> BalanceMetrics | None:
    """Update the biases from the loads since the last call, summed over all ranks, and begin to count anew.

    Routers that saw no token, those of MTP layers in RL, stay as they are.

    Returns:
        What the loads were, or None without routers.
    """
    if not found:
        return None
    loads = torch.stack([router.load for router in found])  # [layers, E]
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(loads)
    biases = torch.stack([router.expert_bias for router in found])
    used = loads.sum(dim=1) > 0
    biases[used] = updated_bias(biases[used], loads[used], rate)
    for router, bias in zip(found, biases, strict=True):
        router.expert_bias.copy_(bias)
        router.load.zero_()
    if not used.any():
        return BalanceMetrics(0.0, 0.0, float((biases.amax(1) - biases.amin(1)).max()))
    means = loads[used].double().mean(dim=1, keepdim=True)
    return BalanceMetrics(
        worst_violation=float(((loads[used] - means) / means).max()),
        dead_experts=float((loads[used] == 0).sum()),
        bias_spread=float((biases.amax(1) - biases.amin(1)).max()),
    )
