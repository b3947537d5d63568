"""The three products of a layer in FP8: by Hopper's scaled products, or emulated on a CPU.

The emulation runs on scaled values in float32, where each of them is exact. On GPUs what does not gain by `hopper.py`
stays in the precision of the activations: experts, for which PyTorch has no grouped product with these scales and which
take ten times as long emulated, and layers that are small or no multiples of 128.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef

from evolpo.model.fp8 import hopper
from evolpo.model.fp8.formats import Quantised, quantise_blocks, quantise_features, quantise_tokens, token_tiles
from evolpo.model.fp8.held import held
from evolpo.model.fp8.safeguards import watched


def _times(x: Tensor, weight: Tensor, ends: Tensor | None) -> Tensor:
    """X [N, K] times W^T: W is [out, K], or [E, out, K] with the rows of each expert ending at `ends`."""
    if ends is None:
        return x @ weight.T
    return nn.functional.grouped_mm(x, weight.transpose(1, 2), offs=ends)


class _Shared:
    """The last input quantised for a weight gradient: layers with one input in common keep it once."""

    def __init__(self) -> None:
        self.source: TensorWeakRef | None = None
        self.version = -1
        self.values: TensorWeakRef | None = None
        self.scales: TensorWeakRef | None = None

    def quantise(self, name: str, x: Tensor, rows: Tensor) -> Quantised:
        if self.source is not None and self.source() is x and self.version == x._version:
            assert self.values is not None
            assert self.scales is not None
            values, scales = self.values(), self.scales()
            if values is not None and scales is not None:
                return Quantised(values, scales, rows)
        flat = x.detach().flatten(0, -2)
        quantised = watched(f"{name}.x_t", flat, quantise_tokens(flat, rows))
        self.source, self.version = TensorWeakRef(x), x._version
        self.values, self.scales = TensorWeakRef(quantised.values), TensorWeakRef(quantised.scales)
        return quantised


_shared = _Shared()


class _Fp8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ends: Tensor | None, name: str) -> Tensor:
        flat = x.detach().flatten(0, -2)
        counts = torch.tensor([len(flat)]) if ends is None else ends.diff(prepend=ends.new_zeros(1))
        rows = token_tiles(counts.long().to(x.device))
        ctx.name, ctx.shape, ctx.dtype = name, x.shape, x.dtype
        kept = _shared.quantise(name, x, rows) if ctx.needs_input_grad[1] else None
        values, scales = (None, None) if kept is None else (kept.values, kept.scales)
        ctx.save_for_backward(weight, rows, ends, values, scales)
        features = watched(f"{name}.x", flat, quantise_features(flat)).dequantise()
        return _times(features, _scaled_weight(ctx, weight), ends).to(x.dtype).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weight, rows, ends, values, scales = ctx.saved_tensors
        dy = grads[0].flatten(0, -2).contiguous()
        dx = dw = None
        if ctx.needs_input_grad[0]:
            features = watched(f"{ctx.name}.dy", dy, quantise_features(dy)).dequantise()
            dx = _times(features, _scaled_weight(ctx, weight).transpose(-1, -2), ends).to(ctx.dtype).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            tokens = watched(f"{ctx.name}.dy_t", dy, quantise_tokens(dy, rows)).dequantise()
            inputs = Quantised(values, scales, rows).dequantise()
            grouped = nn.functional.grouped_mm
            dw = (tokens.T @ inputs if ends is None else grouped(tokens.T, inputs, offs=ends)).to(weight.dtype)
        return dx, dw, None, None


def _scaled_weight(ctx: Any, weight: Tensor) -> Tensor:
    """What FP8 keeps of a weight."""

    def make() -> Tensor:
        exact = weight.detach()
        return watched(f"{ctx.name}.w", exact, quantise_blocks(exact)).dequantise()

    return held(weight, "scaled", make)


def fp8_product(x: Tensor, weight: Tensor, ends: Tensor | None = None, name: str = "") -> Tensor:
    """X W^T with all three products in FP8, where the device has them or emulates them.

    Args:
        x: [..., N, K].
        weight: [out, K], or [E, out, K] for experts.
        ends: [E] int32, where the rows of each expert end; None without experts.
        name: of the layer, for the safeguard metrics.

    Returns:
        [..., N, out] in the precision of `x`.
    """
    if x.is_cuda:
        return hopper.fp8_product(x, weight, name) if hopper.fits(x, weight) else _times(x, weight, ends)
    return emulated_product(x, weight, ends, name)


def emulated_product(x: Tensor, weight: Tensor, ends: Tensor | None = None, name: str = "") -> Tensor:
    """`fp8_product` in float32, on any device."""
    result: Tensor = _Fp8Product.apply(x, weight, ends, name)  # type: ignore[no-untyped-call]
    return result
