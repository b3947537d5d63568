"""Sparse experts: the router, and a dropless mixture computed as two grouped matrix products.

Tokens are sorted by expert, so that each product is one call whose cost grows with the experts a token uses, not with
those there are. No token is dropped and no capacity is set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


ALIGNMENT = 16
"""Rows of an expert are filled up to a multiple of this, so that products come in few shapes: on a CPU, the kernel of a
shape not seen before takes five times as long to prepare as to run."""


@dataclass(frozen=True)
class Plan:
    """Which row of a step's products belongs to which token and expert."""

    slots: Tensor
    """[R] int64, for each row its place in the flattened [N, k] choice, sorted by expert; fillers repeat the last row
    of their expert."""
    rows: Tensor
    """[N * k] int64, for each place in the flattened choice its row."""
    filler: Tensor
    """[R] bool."""
    ends: Tensor
    """[E] int32, where the rows of each expert end."""


def plan(chosen: Tensor, experts: int) -> Plan:
    """Sort the choices [N, k] by expert, every expert with a multiple of `ALIGNMENT` rows."""
    flat = chosen.flatten()
    order = flat.argsort(stable=True)  # [N * k], by expert
    counts = torch.bincount(flat, minlength=experts)
    filled = (counts + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    shift = (filled.cumsum(0) - filled) - (counts.cumsum(0) - counts)  # [E], rows of filler before each expert
    places = torch.arange(len(order), device=order.device) + shift[flat[order]]
    rows = torch.empty_like(order).scatter_(0, order, places)
    owner = torch.repeat_interleave(torch.arange(experts, device=order.device), filled)  # [R]
    wanted = torch.arange(len(owner), device=order.device) - shift[owner]
    last = (counts.cumsum(0) - 1)[owner]
    return Plan(order[wanted.minimum(last)], rows, wanted > last, filled.cumsum(0).to(torch.int32))


def _sums(rows: Tensor, places: Tensor, used: int) -> Tensor:
    """[N, H] sums of the rows [R, H] at every `used` of the places [N * used], without a copy of them in between."""
    return nn.functional.embedding_bag(places.view(-1, used), rows, mode="sum")


class _Dispatch(torch.autograd.Function):
    """[N, H] -> [R, H], a copy of each token for each of its experts, sorted by expert."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, plan: Plan) -> Tensor:
        ctx.rows = plan.rows
        ctx.used = len(plan.rows) // len(tokens)
        return tokens.index_select(0, plan.slots // ctx.used)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _sums(grads[0], ctx.rows, ctx.used), None


class _Combine(torch.autograd.Function):
    """[R, H] sorted by expert -> [N, H], the sum over each token's experts: the transpose of `_Dispatch`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, plan: Plan, used: int) -> Tensor:
        ctx.slots, ctx.used = plan.slots, used
        return _sums(rows, plan.rows, used)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        # Fillers get the gradient of the row they repeat; their weight of zero keeps it from going further.
        return grads[0].index_select(0, ctx.slots // ctx.used), None, None


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
        sorted_by = plan(chosen, len(self.gate_up_proj))
        ends = sorted_by.ends
        rows = _Dispatch.apply(hidden, sorted_by)  # type: ignore[no-untyped-call]
        gate, up = self.grouped(rows, self.gate_up_proj, ends).chunk(2, dim=1)  # [R, I] each
        weight = weights.flatten()[sorted_by.slots].masked_fill(sorted_by.filler, 0.0)
        rows = _Weigh.apply(nn.functional.silu(gate) * up, weight)  # type: ignore[no-untyped-call]
        rows = self.grouped(rows, self.down_proj, ends)
        result: Tensor = _Combine.apply(rows, sorted_by, chosen.shape[1])  # type: ignore[no-untyped-call]
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
