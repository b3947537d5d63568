"""Attention of rows of queries on rows of keys: plain causal by PyTorch's kernels, everything else in blocks.

A window, a soft cap or a sink is what PyTorch's fused kernel cannot do, and its flexible one has no backward pass on a
CPU. So these are computed block by block of queries, in float32 inside a block, and again in the backward pass: memory
is that of one block, and keys that no query of a block sees cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

LONGEST_PRODUCT = 1024
"""Tokens of a row up to which the backward pass of attention in bfloat16 on a CPU is faster as products."""
BLOCK_SCORES = 1 << 24
"""Scores of queries and keys in memory at a time, over all rows and heads; 64 MB."""
SMALLEST_BLOCK = 16
"""Queries in a block at least."""

BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""On GPUs, without cuDNN, which PyTorch takes first on Hopper: it is up to twice as fast, but prepares 140 ms (H100)
for every shape that it has not seen, and nearly every micro-batch has a shape of its own."""
Rule = Callable[[Any, Any, Tensor, Tensor], Tensor]
"""Which keys a query sees, as transformers has it: of batch, head, places of queries and of keys, True where seen."""


class Visibility:
    """Which keys each query of a row sees."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._tables: dict[int, Tensor | None] = {}

    def table(self, length: int, device: torch.device) -> Tensor | None:
        """[length, length] bool, True where the query of a line sees the key of a column; None where that is causal.

        Raises:
            ValueError: a query sees a later key.
        """
        if length not in self._tables:
            places = torch.arange(length, device=device)
            zero = torch.zeros((), dtype=torch.long, device=device)
            causal = places[None, :] <= places[:, None]
            seen = self._rule(zero, zero, places[:, None], places[None, :]) & torch.ones_like(causal)
            if (seen & ~causal).any():
                raise ValueError("attention on later tokens: this is no causal language model")
            self._tables[length] = None if torch.equal(seen, causal) else seen
        return self._tables[length]


def _kernel(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    wanted, grouped = value.shape[3], query.shape[1] != key.shape[1]
    if grouped and query.is_cuda and query.dtype == torch.float32:  # no fused kernel shares key heads in float32
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
        grouped = False
    if wanted < query.shape[3]:  # the fused kernels want one size of heads, which multi-head latent attention has not
        value = nn.functional.pad(value, (0, query.shape[3] - wanted))
    with sdpa_kernel(BACKENDS) if query.is_cuda else nullcontext():
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=grouped
        )
    return output[..., :wanted]


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
        per_query, per_key = (rows * kv_heads, heads // kv_heads * length), (rows * kv_heads, length)
        q, k, v = (
            (query * ctx.scale).reshape(*per_query, size),
            key.reshape(*per_key, size),
            value.reshape(*per_key, -1),
        )
        upstream = grads[0].reshape(*per_query, -1)
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
    """Causal attention of [B, heads, L, D] queries on [B, key-value heads, L, D], by the fastest way there is.

    The heads of the values may be smaller than D.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= LONGEST_PRODUCT:
        scale = query.shape[3] ** -0.5 if scale is None else scale
        result: Tensor = _CausalOnCpu.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
        return result
    return _kernel(query, key, value, scale)


def general_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    table: Tensor | None = None,
    cap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention with a table of who sees whom, capped scores and sinks, in blocks of queries.

    Args:
        query: [B, heads, L, D].
        key, value: [B, key-value heads, L, D]; the heads of the values may have another size.
        scale: factor of the products of queries and keys; 1 / sqrt(D) if None.
        table: [L, L] bool, True where the query of a line sees the key of a column; causal if None.
        cap: scores s become cap * tanh(s / cap), as in Gemma 2; None leaves them.
        sinks: [heads] a score for each head that takes its share of the weights and has no value, as in gpt-oss.

    Returns:
        [B, heads, L, size of the values' heads] in the precision of the values.
    """
    rows, heads, length, size = query.shape
    scale = size**-0.5 if scale is None else scale
    if table is None:
        table = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if key.shape[1] != heads:
        key, value = (x.repeat_interleave(heads // key.shape[1], dim=1) for x in (key, value))
    block = max(BLOCK_SCORES // (rows * heads * length), SMALLEST_BLOCK)
    parts = []
    for start in range(0, length, block):
        seen = table[start : start + block]
        columns = seen.any(dim=0).nonzero()
        keys = slice(int(columns[0]), int(columns[-1]) + 1)
        inputs = (
            query[:, :, start : start + block],
            key[:, :, keys],
            value[:, :, keys],
            seen[:, keys],
            scale,
            cap,
            sinks,
        )
        parts.append(checkpoint(_block, *inputs, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(parts, dim=2)


def _block(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float, cap: float | None, sinks: Tensor | None
) -> Tensor:
    scores = (query.float() * scale) @ key.float().transpose(2, 3)  # [B, heads, block, keys]
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    scores = scores.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        sink = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        return (torch.cat((scores, sink), dim=3).softmax(3)[..., :-1].to(value.dtype)) @ value
    return scores.softmax(3).to(value.dtype) @ value
