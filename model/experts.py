"""Sparse experts: the router, and a dropless mixture computed as two grouped matrix products.

Tokens are sorted by expert, so that each product is one call whose cost grows with the experts a token uses, not with
those there are. No token is dropped and no capacity is set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from evolpo.model.config import BailingMoeV2Config


class Router(nn.Module):
    """Chooses experts for each token, limited to a few groups of experts (Ling 2.0 report, section 2.1)."""

    expert_bias: Tensor
    load: Tensor

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__()
        self.groups, self.used_groups = config.n_group, config.topk_group
        self.experts, self.used = config.num_experts, config.num_experts_per_tok
        self.scaling = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.register_buffer("expert_bias", torch.zeros(config.num_experts, dtype=torch.float32))
        self.register_buffer("load", torch.zeros(config.num_experts, dtype=torch.int64), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Move like any module, but keep the bias in float32: its steps are below bfloat16's resolution."""
        bias = self.expert_bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.expert_bias = bias.to(self.expert_bias.device)
        return self

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Choose experts.

        Selection is by score + bias: the two best of each group are summed, the best groups kept, and in them the best
        experts. The bias has no part in the weights.

        Args:
            hidden: [N, H].

        Returns:
            [N, k] int64 experts, and [N, k] float32 weights that sum to the scaling factor.
        """
        scores = nn.functional.linear(hidden.float(), self.weight.float()).sigmoid()  # [N, E]
        chosen = self._choose((scores + self.expert_bias).detach())
        if torch.is_grad_enabled():  # training: what `evolpo.model.balance` evens out
            self.load += torch.bincount(chosen.flatten(), minlength=self.experts)
        weights = scores.gather(1, chosen)
        return chosen, weights / (weights.sum(dim=1, keepdim=True) + 1e-20) * self.scaling

    def _choose(self, biased: Tensor) -> Tensor:
        grouped = biased.view(len(biased), self.groups, -1)  # [N, groups, E / groups]
        best = grouped.topk(2, dim=2).values.sum(dim=2).topk(self.used_groups, dim=1).indices
        closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter_(1, best, False)
        open_only = grouped.masked_fill(closed[..., None], -torch.inf).flatten(1)
        return torch.topk(open_only, self.used, dim=1)[1]


def routers(model: nn.Module) -> list[Router]:
    """The routers of a model in the order of its layers; none in a dense model."""
    return [module for module in model.modules() if isinstance(module, Router)]


class _Permute(torch.autograd.Function):
    """Rows in another order; the backward pass is the inverse order instead of an addition by index."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.inverse = inverse
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, ctx.inverse), None, None


def permute(rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Rows [N, ...] in the order `order` [N], whose inverse is `inverse` [N]."""
    result: Tensor = _Permute.apply(rows, order, inverse)  # type: ignore[no-untyped-call]
    return result


class Experts(nn.Module):
    """SwiGLU experts whose weights lie in two tensors, [E, 2I, H] (gate above up) and [E, H, I]."""

    def __init__(self, experts: int, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * intermediate, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, intermediate))

    def grouped(self, rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        """Rows [N, in] sorted by expert, times each expert's weight [E, out, in]; its rows end at `ends` [E]."""
        return nn.functional.grouped_mm(rows, weight.transpose(1, 2), offs=ends)

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Sum over each token's experts, weighted.

        Args:
            hidden: [N, H].
            chosen: [N, k] experts.
            weights: [N, k] float32.

        Returns:
            [N, H].
        """
        tokens, used = chosen.shape
        flat = chosen.flatten()
        order = flat.argsort(stable=True)  # [N * k], by expert
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        ends = torch.bincount(flat, minlength=len(self.gate_up_proj)).cumsum(0).to(torch.int32)
        copies = hidden[:, None].expand(-1, used, -1).reshape(tokens * used, -1)
        rows = permute(copies, order, inverse)  # [N * k, H]
        gate, up = self.grouped(rows, self.gate_up_proj, ends).chunk(2, dim=1)
        rows = self.grouped(nn.functional.silu(gate) * up, self.down_proj, ends)
        outputs = permute(rows, inverse, order).view(tokens, used, -1)
        return (outputs * weights[..., None]).sum(dim=1).to(hidden.dtype)


def experts_by_loop(experts: Experts, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """What `Experts` computes, one expert after the other: the plain version it is tested and timed against."""
    result = torch.zeros_like(hidden)
    for expert, (gate_up, down) in enumerate(zip(experts.gate_up_proj, experts.down_proj, strict=True)):
        tokens, places = (chosen == expert).nonzero(as_tuple=True)
        gate, up = nn.functional.linear(hidden[tokens], gate_up).chunk(2, dim=1)
        rows = nn.functional.linear(nn.functional.silu(gate) * up, down)
        result = result.index_add(0, tokens, rows * weights[tokens, places, None].to(rows.dtype))
    return result
