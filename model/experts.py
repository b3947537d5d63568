"""Sparse experts: the router, and a dropless mixture computed as two grouped matrix products.

Tokens are sorted by expert, so that each product is one call whose cost grows with the experts a token uses, not with
those there are. No token is dropped and no capacity is set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class _Dispatch(torch.autograd.Function):
    """[N, H] -> [N * k, H], a copy of each token for each of its experts, sorted by expert."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.inverse = inverse
        used = len(order) // len(tokens)
        ctx.used = used
        return tokens.index_select(0, order // used)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        rows = grads[0].index_select(0, ctx.inverse)
        return rows.view(-1, ctx.used, rows.shape[1]).sum(dim=1), None, None


class _Combine(torch.autograd.Function):
    """[N * k, H] sorted by expert -> [N, H], the sum over each token's experts: the transpose of `_Dispatch`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor, used: int) -> Tensor:
        ctx.order, ctx.used = order, used
        return rows.index_select(0, inverse).view(-1, used, rows.shape[1]).sum(dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0].index_select(0, ctx.order // ctx.used), None, None, None


class _Weigh(torch.autograd.Function):
    """Rows [M, I] times a float32 weight each [M], keeping the rows' precision."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        return (rows * weights[:, None]).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        rows, weights = ctx.saved_tensors
        return (grads[0] * weights[:, None]).to(rows.dtype), (grads[0] * rows).sum(dim=1, dtype=weights.dtype)


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

        The weight is applied before the last product, which is linear, to the shorter rows.

        Args:
            hidden: [N, H].
            chosen: [N, k] experts.
            weights: [N, k] float32.

        Returns:
            [N, H].
        """
        flat = chosen.flatten()
        order = flat.argsort(stable=True)  # [N * k], by expert
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        ends = torch.bincount(flat, minlength=len(self.gate_up_proj)).cumsum(0).to(torch.int32)
        rows = _Dispatch.apply(hidden, order, inverse)  # type: ignore[no-untyped-call]
        gate, up = self.grouped(rows, self.gate_up_proj, ends).chunk(2, dim=1)  # [N * k, I] each
        rows = _Weigh.apply(nn.functional.silu(gate) * up, weights.flatten()[order])  # type: ignore[no-untyped-call]
        rows = self.grouped(rows, self.down_proj, ends)
        result: Tensor = _Combine.apply(rows, order, inverse, chosen.shape[1])  # type: ignore[no-untyped-call]
        return result


def experts_by_loop(
    experts: Sequence[Callable[[Tensor], Tensor]], hidden: Tensor, chosen: Tensor, weights: Tensor
) -> Tensor:
    """What `Experts` computes, one expert after the other: the plain version it is tested and timed against."""
    result = torch.zeros_like(hidden)
    for number, expert in enumerate(experts):
        tokens, places = (chosen == number).nonzero(as_tuple=True)
        rows = expert(hidden[tokens]) * weights[tokens, places, None]
        result = result.index_add(0, tokens, rows.to(hidden.dtype))
    return result
