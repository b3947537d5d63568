"""Attention over micro-batches in which responses share the tokens of their prompt.

A transformer's linear layers treat every token alone, attention alone looks along a sequence. So a micro-batch is one
line of N distinct tokens, without padding and with each prompt once; for attention the line is spread into B rows, each
a prompt followed by one response, padded on the right. There plain causal attention is right, whatever kernel runs it,
and needs no mask; its output is collected back into the line. The copies of a prompt cost attention and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PACKED = "evolpo_packed"
"""Name of this attention among those of transformers."""

LONGEST_PRODUCT = 1024
"""Tokens of a row up to which the backward pass of attention in bfloat16 on a CPU is faster as products."""


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


def _kernel(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    return nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


class _CausalOnCpu(torch.autograd.Function):
    """Causal attention in bfloat16 on a CPU: PyTorch's kernel forward, batched products backward.

    The kernel's own backward pass takes more than twice the time for rows of up to some hundred tokens. The products
    round scores to bfloat16: gradients are off by 0.3 to 0.7% where the kernel's are by 0.3 to 0.6% (standard deviation
    of the scores 1 to 3), 1 to 2% where scores spread three times as far.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        return _kernel(query, key, value, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value = ctx.saved_tensors
        (rows, heads, length, size), kv_heads = query.shape, key.shape[1]
        per_query, per_key = (rows * kv_heads, heads // kv_heads * length, size), (rows * kv_heads, length, size)
        q, k, v = (query * ctx.scale).reshape(per_query), key.reshape(per_key), value.reshape(per_key)
        upstream = grads[0].reshape(per_query)
        scores = torch.bmm(q, k.transpose(1, 2)).view(len(q), -1, length, length)
        scores += torch.full((length, length), -torch.inf, dtype=scores.dtype).triu(1)
        share = scores.softmax(-1).view(len(q), -1, length)  # [rows * kv_heads, group * L, L]
        grad_value = torch.bmm(share.transpose(1, 2), upstream)
        grad_share = torch.bmm(upstream, v.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_share, share, -1, share.dtype)
        grad_query = torch.bmm(grad_scores, k).mul_(ctx.scale)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), q)
        return grad_query.view(query.shape), grad_key.view(key.shape), grad_value.view(value.shape), None


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Causal attention of [B, heads, L, D] queries on [B, key-value heads, L, D], by the fastest way there is."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= LONGEST_PRODUCT:
        scale = query.shape[3] ** -0.5 if scale is None else scale
        result: Tensor = _CausalOnCpu.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
        return result
    return _kernel(query, key, value, scale)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each prompt and response of a micro-batch; the interface is that of transformers.

    Args:
        module: the attention layer.
        query: [1, heads, N, D].
        key, value: [1, key-value heads, N, D].
        attention_mask: None.
        layout: where the N tokens belong.
        scaling: factor of the products of queries and keys; 1 / sqrt(D) if None.
        dropout: share of attention weights to drop; 0.
        sliding_window: how far back a token sees; more than the longest row.
        softcap: None.

    Returns:
        [1, N, heads, D], and None for the weights.

    Raises:
        ValueError: the model asks for something that plain causal attention is not.
    """
    width = layout.places.shape[1]
    if attention_mask is not None or softcap is not None or dropout or 0 < (sliding_window or 0) < width:
        raise ValueError(
            f"{type(module).__name__}: only causal attention without mask, soft cap, dropout or a window shorter than"
            f" the longest row ({width} tokens) can be trained"
        )
    q, k, v = (_Spread.apply(x[0].transpose(0, 1), layout).transpose(1, 2) for x in (query, key, value))  # type: ignore[no-untyped-call]
    output = causal_attention(q, k, v, scaling)  # [B, heads, L, D]
    return _Collect.apply(output.transpose(1, 2), layout).unsqueeze(0), None  # type: ignore[no-untyped-call]


def use_packed_attention(model: Any) -> None:
    """Switch a transformers model to `packed_attention`; its calls then need the keyword `layout`.

    Raises:
        ValueError: the model does not take its attention from transformers' registry.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)
    model.set_attn_implementation(PACKED)
    if model.config._attn_implementation != PACKED:
        raise ValueError(f"{type(model).__name__}: its attention cannot be replaced, so it cannot be trained here")
