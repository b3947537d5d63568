"""Attention over micro-batches in which responses share the tokens of their prompt.

A transformer's linear layers treat every token alone, attention alone looks along a sequence. So a micro-batch is one
line of N distinct tokens, without padding and with each prompt once; for attention the line is spread into B rows, each
a prompt followed by one response, padded on the right. There attention is what it is in any sequence, plain causal or
with the windows, caps and sinks of the model; its output is collected back into the line. The copies of a prompt cost
attention and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evolpo.model.kernels import Rule, Visibility, causal_attention, general_attention

PACKED = "evolpo_packed"
"""Name of this attention among those of transformers."""


@dataclass(frozen=True)
class Share:
    """One prompt in the line and the rows that begin with it."""

    start: int
    """Index of the prompt's first token in the line."""
    length: int
    """Tokens of the prompt."""
    rows: slice
    """Rows that hold a copy of it."""


@dataclass(frozen=True)
class Layout:
    """How N tokens of a line are spread into B rows of up to L tokens."""

    places: Tensor  # [B, L] index in the line of the token at each place of a row; padding repeats the row's last token
    first: Tensor  # [N] index in the flattened [B * L] of each token's first copy
    shares: tuple[Share, ...]

    def to(self, device: torch.device) -> Layout:
        """The same layout on a device."""
        return Layout(self.places.to(device), self.first.to(device), self.shares)


class _Spread(torch.autograd.Function):
    """[N, ...] -> [B, L, ...]. Backward: a token's gradient is the sum over its copies, in a fixed order."""

    @staticmethod
    def forward(ctx: Any, line: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return line[layout.places]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        layout: Layout = ctx.layout
        rows = grads[0]
        line = rows.flatten(0, 1).index_select(0, layout.first)
        for share in layout.shares:
            line[share.start : share.start + share.length] = rows[share.rows, : share.length].sum(dim=0)
        return line, None


class _Collect(torch.autograd.Function):
    """[B, L, ...] -> [N, ...], the first copy of every token."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: Layout) -> Tensor:
        ctx.layout, ctx.shape = layout, rows.shape
        return rows.flatten(0, 1).index_select(0, layout.first)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        rows = grads[0].new_zeros(ctx.shape)
        rows.flatten(0, 1)[ctx.layout.first] = grads[0]
        return rows, None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Visibility | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention within each prompt and response of a micro-batch; the interface is that of transformers.

    Args:
        module: the attention layer.
        query: [1, heads, N, D].
        key, value: [1, key-value heads, N, D]; the heads of the values may have another size.
        attention_mask: who sees whom in a row, from `visibility`; None is causal.
        layout: where the N tokens belong.
        scaling: factor of the products of queries and keys; 1 / sqrt(D) if None.
        dropout: share of attention weights to drop; 0.
        sliding_window: how far back a token sees; `attention_mask` says it as well.
        softcap: bound of the scores, or None.
        s_aux: [heads] sinks, or None.
        others: what this attention does not look at; position biases are refused.

    Returns:
        [1, N, heads, size of the values' heads], and None for the weights.

    Raises:
        ValueError: the model asks for something else.
    """
    width = layout.places.shape[1]
    name = type(module).__name__
    if dropout or others.get("position_bias") is not None:
        raise ValueError(f"{name}: attention with dropout or position biases cannot be trained")
    if attention_mask is None and 0 < (sliding_window or 0) < width:
        raise ValueError(f"{name}: it has a window of {sliding_window} tokens that its mask does not show")
    if attention_mask is not None and not isinstance(attention_mask, Visibility):
        raise ValueError(f"{name}: it makes a mask of its own, so it cannot be trained here")
    q, k, v = (_Spread.apply(x[0].transpose(0, 1), layout).transpose(1, 2) for x in (query, key, value))  # type: ignore[no-untyped-call]
    table = None if attention_mask is None else attention_mask.table(width, query.device)
    if table is None and softcap is None and s_aux is None:
        output = causal_attention(q, k, v, scaling)  # [B, heads, L, D]
    else:
        output = general_attention(q, k, v, scaling, table, softcap, s_aux)
    return _Collect.apply(output.transpose(1, 2), layout).unsqueeze(0), None  # type: ignore[no-untyped-call]


def visibility(*, mask_function: Rule, **_: Any) -> Visibility:
    """What transformers asks for in the place of a mask: the rule itself, to be applied to the rows of a layout."""
    return Visibility(mask_function)


def use_packed_attention(model: Any) -> None:
    """Switch a transformers model to `packed_attention`.

    Its calls then need the keyword `layout`, and an `attention_mask` of ones [1, N]: without one transformers would
    look for the sequences of the line by itself.

    Raises:
        ValueError: the model does not take its attention from transformers' registry.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, visibility)
    model.set_attn_implementation(PACKED)
    if model.config._attn_implementation != PACKED:
        raise ValueError(f"{type(model).__name__}: its attention cannot be replaced, so it cannot be trained here")
