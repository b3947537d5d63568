"""FP8 training of linear layers, experts included (Ling 2.0 report, section 5.1).

Activations and gradients are quantised in tiles of 1 x 128, weights in blocks of 128 x 128, all to E4M3 with float32
scales; products accumulate in float32 and give the precision of the activations. All three products of a layer are so:

    forward          y  = x W^T     x in tiles along its features,      W in blocks
    input gradient   dx = dy W      dy in tiles along its features,     W in the same blocks
    weight gradient  dW = dy^T x    both in tiles along the tokens, which start anew with every expert

What is kept of x for the backward pass is the FP8 version in tiles along the tokens: the only one that pass needs.
Router, norms, embeddings and LM head stay as they are.

Products run on scaled values in float32, which has the numerics of the format on any machine; on Hopper GPUs the
forward and input-gradient products of layers without experts go to the hardware's scaled products. That path has not
been run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef
from transformers import PreTrainedModel

from evolpo.model.experts import Experts

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
"""Largest value of E4M3, 448."""
TILE = 128
_LAYER = re.compile(r"\blayers\.(\d+)\.")


# -- quantisation -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantised:
    """A matrix in E4M3 and the float32 scales of its tiles or blocks."""

    values: Tensor  # [N, K] float8_e4m3fn
    scales: Tensor  # [N, K / 128], [tiles, K] or [..., N / 128, K / 128], float32
    rows: Tensor | None = None
    """[tiles] rows in each tile along the tokens; None for tiles along the features and for blocks."""

    def dequantise(self) -> Tensor:
        """The values that the format represents, in float32."""
        return self.values.float() * self._expanded()

    def _expanded(self) -> Tensor:
        shape = self.values.shape
        if self.rows is not None:
            return self.scales.repeat_interleave(self.rows, dim=0)
        scales = self.scales.repeat_interleave(TILE, dim=-1)[..., : shape[-1]]
        if scales.shape[-2] != shape[-2]:
            scales = scales.repeat_interleave(TILE, dim=-2)[..., : shape[-2], :]
        return scales


def _scale(largest: Tensor) -> Tensor:
    """Scale that maps the largest magnitude of a tile to that of the format; 1 for a tile of zeros."""
    return torch.where(largest > 0, largest.float() / LARGEST, 1.0)


def quantise_features(x: Tensor) -> Quantised:
    """[N, K] in tiles of one row and 128 columns, the last one shorter."""
    columns = x.shape[-1]
    padded = nn.functional.pad(x.abs(), (0, -columns % TILE))
    scales = _scale(padded.view(len(x), -1, TILE).amax(dim=-1))  # [N, K / 128]
    expanded = scales.repeat_interleave(TILE, dim=1)[:, :columns]
    return Quantised((x.float() / expanded).to(E4M3), scales)


def quantise_tokens(x: Tensor, rows: Tensor) -> Quantised:
    """[N, K] in tiles of `rows` [tiles] rows, at most 128 each, and one column."""
    largest = torch.segment_reduce(x.abs().float(), "max", lengths=rows, axis=0)  # [tiles, K]
    scales = _scale(largest)
    return Quantised((x.float() / scales.repeat_interleave(rows, dim=0)).to(E4M3), scales, rows)


def quantise_blocks(weight: Tensor) -> Quantised:
    """[..., N, K] in blocks of 128 x 128, the last ones smaller."""
    rows, columns = weight.shape[-2:]
    padded = nn.functional.pad(weight.abs(), (0, -columns % TILE, 0, -rows % TILE))
    tiles = padded.unflatten(-1, (-1, TILE)).unflatten(-3, (-1, TILE))  # type: ignore[no-untyped-call]
    scales = _scale(tiles.amax(dim=(-1, -3)))  # [..., N / 128, K / 128]
    expanded = scales.repeat_interleave(TILE, -1)[..., :columns].repeat_interleave(TILE, -2)[..., :rows, :]
    return Quantised((weight.float() / expanded).to(E4M3), scales)


def token_tiles(counts: Tensor) -> Tensor:
    """Rows of each tile along the tokens when consecutive groups have `counts` [E] rows: tiles never cross a group."""
    full, rest = counts // TILE, counts % TILE
    per_group = full + (rest > 0)  # [E]
    tiles = torch.full((int(per_group.sum()),), TILE, device=counts.device)
    last = per_group.cumsum(0) - 1
    short = rest > 0
    tiles[last[short]] = rest[short]
    return tiles


# -- what is watched ----------------------------------------------------------------------------------------------


@dataclass
class Safeguards:
    """How well tensors survive FP8, by layer and tensor (report, section 5.1)."""

    underflow: dict[str, float] = field(default_factory=dict)
    """Share of the non-zero elements that become zero; the last one seen."""
    distortion: dict[str, float] = field(default_factory=dict)
    """Cosine similarity between a tensor and what FP8 keeps of it; the last one seen."""

    def record(self, name: str, exact: Tensor, quantised: Quantised) -> None:
        """Look at one quantised tensor."""
        exact, kept = exact.float().flatten(), quantised.dequantise().flatten()
        nonzero = exact != 0
        if nonzero.any():
            self.underflow[name] = float(((kept == 0) & nonzero).sum() / nonzero.sum())
            self.distortion[name] = float(nn.functional.cosine_similarity(exact, kept, dim=0))

    def by_layer(self) -> dict[str, float]:
        """The worst values of a layer by kind of tensor: `TENSOR/layer_N/underflow/max`, `.../similarity/min`."""
        worst: dict[str, float] = {}
        for name, underflow in self.underflow.items():
            layer = _LAYER.search(name)
            place = f"{name.rpartition('.')[2]}/layer_{layer[1] if layer else 0}"
            most, least = f"{place}/underflow/max", f"{place}/similarity/min"
            worst[most] = max(underflow, worst.get(most, 0.0))
            worst[least] = min(self.distortion[name], worst.get(least, 1.0))
        return worst


_watching: Safeguards | None = None


@contextmanager
def watch() -> Iterator[Safeguards]:
    """Record safeguard metrics of all FP8 layers that run inside, forward and backward; costs time."""
    global _watching
    _watching = Safeguards()
    try:
        yield _watching
    finally:
        _watching = None


def _watched(name: str, exact: Tensor, quantised: Quantised) -> Quantised:
    if _watching is not None:
        _watching.record(name, exact, quantised)
    return quantised


# -- products -----------------------------------------------------------------------------------------------------


def _on_hopper(x: Tensor) -> bool:
    return x.is_cuda and torch.cuda.get_device_capability(x.device)[0] == 9


def _scaled(x: Quantised, weight: Quantised, dtype: torch.dtype) -> Tensor:
    """X [N, K] times W^T [out, K] by Hopper's scaled product; not run on any machine so far."""
    kinds = nn.functional.ScalingType
    return nn.functional.scaled_mm(
        x.values, weight.values.t(), x.scales, kinds.BlockWise1x128, weight.scales, kinds.BlockWise128x128,
        output_dtype=dtype,
    )  # fmt: skip


def _times(x: Quantised, weight: Quantised, dtype: torch.dtype, ends: Tensor | None) -> Tensor:
    """X [N, K] times W^T: W is [out, K], or [E, out, K] with the rows of each expert ending at `ends`."""
    aligned = all(size % TILE == 0 for size in weight.values.shape[-2:])
    if ends is None and aligned and _on_hopper(x.values):
        return _scaled(x, weight, dtype)
    if ends is None:
        return (x.dequantise() @ weight.dequantise().T).to(dtype)
    return nn.functional.grouped_mm(x.dequantise(), weight.dequantise().transpose(1, 2), offs=ends).to(dtype)


def _transposed(weight: Quantised) -> Quantised:
    """The same blocks of the transposed weight."""
    return Quantised(
        weight.values.transpose(-1, -2).contiguous(), weight.scales.transpose(-1, -2).contiguous(), weight.rows
    )


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
        quantised = _watched(f"{name}.x_t", flat, quantise_tokens(flat, rows))
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
        features = _watched(f"{name}.x", flat, quantise_features(flat))
        blocks = _watched(f"{name}.w", weight.detach(), quantise_blocks(weight.detach()))
        return _times(features, blocks, x.dtype, ends).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weight, rows, ends, values, scales = ctx.saved_tensors
        dy = grads[0].flatten(0, -2).contiguous()
        dx = dw = None
        if ctx.needs_input_grad[0]:
            features = _watched(f"{ctx.name}.dy", dy, quantise_features(dy))
            dx = _times(features, _transposed(quantise_blocks(weight)), ctx.dtype, ends).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            tokens = _watched(f"{ctx.name}.dy_t", dy, quantise_tokens(dy, rows)).dequantise()
            inputs = Quantised(values, scales, rows).dequantise()
            grouped = nn.functional.grouped_mm
            dw = (tokens.T @ inputs if ends is None else grouped(tokens.T, inputs, offs=ends)).to(weight.dtype)
        return dx, dw, None, None


def fp8_product(x: Tensor, weight: Tensor, ends: Tensor | None = None, name: str = "") -> Tensor:
    """X W^T with all three products in FP8.

    Args:
        x: [..., N, K].
        weight: [out, K], or [E, out, K] for experts.
        ends: [E] int32, where the rows of each expert end; None without experts.
        name: of the layer, for the safeguard metrics.

    Returns:
        [..., N, out] in the precision of `x`.
    """
    result: Tensor = _Fp8Product.apply(x, weight, ends, name)  # type: ignore[no-untyped-call]
    return result


# -- layers -------------------------------------------------------------------------------------------------------


class Fp8Linear(nn.Linear):
    """A linear layer without bias whose products are in FP8; made from an existing layer by `use_fp8`."""

    name = ""

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., out]."""
        return fp8_product(x, self.weight, None, self.name)


class Fp8Experts(Experts):
    """Experts whose products are in FP8; made from existing ones by `use_fp8`."""

    name = ""

    def grouped(self, rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        """Rows [N, in] sorted by expert, times each expert's weight [E, out, in]; its rows end at `ends` [E]."""
        part = "gate_up_proj" if weight is self.gate_up_proj else "down_proj"
        return fp8_product(rows, weight, ends, f"{self.name}.{part}")


def use_fp8(model: nn.Module) -> list[str]:
    """Switch all linear layers and experts of a model to FP8 products, in place; weights keep their precision.

    The LM head, which a transformers model names as its output embedding, and layers with a bias stay as they are.

    Returns:
        Names of the layers that were switched.
    """
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None  # type: ignore[no-untyped-call]
    switched = []
    for name, module in model.named_modules():
        if type(module) is nn.Linear and module is not head and module.bias is None:
            module.__class__ = Fp8Linear
        elif type(module) is Experts:
            module.__class__ = Fp8Experts
        else:
            continue
        module.name = name
        switched.append(name)
    return switched
