"""The three products of a linear layer on the scaled products of Hopper GPUs, `torch.nn.functional.scaled_mm`.

cuBLASLt wants A [M, K] by rows, B [K, N] by columns, M, N and K in multiples of 16, and the scales lying so (PyTorch,
aten/src/ATen/native/cuda/ScaledBlas.cpp):

    tiles of 1 x 128 of A or B    [M, K / 128] or [N, K / 128], by columns: strides (1, M) or (1, N)
    blocks of 128 x 128 of B      [K / 128 rounded up to 4, N / 128], by columns

So a matrix is stored once for each of the products it goes to, each time along the dimension that is summed over; one
pass over the tensor makes both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef

from evolpo.model.fp8.formats import E4M3, ROWS, TILE, Parts, Quantised, quantise_blocks, scale_of, token_tiles
from evolpo.model.fp8.held import held
from evolpo.model.fp8.safeguards import watched, watching

WORTH = 1 << 25
"""Elements of a weight from which FP8 is faster than bf16. On an H100 the MLP of a 7B model (68 M) gains 2 to 24% at
4,096 to 16,384 tokens; with 13 M quantising costs more than the products save (docs/gpu.md)."""


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the device has these products, and the layer's sizes are multiples of 128 and large enough to gain."""
    sized = weight.dim() == 2 and weight.numel() >= WORTH and all(size % TILE == 0 for size in weight.shape)
    return sized and x.is_cuda and torch.cuda.get_device_capability(x.device)[0] == 9


# -- what is stored -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """A matrix in E4M3 as one of the products reads it: its lines are summed over."""

    values: Tensor  # [lines, summed] float8_e4m3fn, by rows
    scales: Tensor  # as `scaled_mm` takes them


@dataclass(frozen=True)
class Activations:
    """[N, K] in the two forms that a layer's products need."""

    features: Stored | None
    """[N rounded up to 16, K] in tiles along the features."""
    tokens: Stored | None
    """[K, N rounded up to 128] in tiles along the tokens."""
    rows: int
    """N."""

    def by_features(self) -> Quantised:
        """The first form as the format has it, to look at."""
        assert self.features is not None
        return Quantised(self.features.values[: self.rows], self.features.scales[: self.rows])

    def by_tokens(self) -> Quantised:
        """The second form as the format has it, to look at."""
        assert self.tokens is not None
        tiles = token_tiles(torch.tensor([self.rows])).to(self.tokens.values.device)
        return Quantised(self.tokens.values[:, : self.rows].t(), self.tokens.scales.t(), tiles)


def quantise(x: Tensor, features: bool = True, tokens: bool = True) -> Activations:
    """[N, K], K a multiple of 128, in one or both forms."""
    if x.is_cuda:
        from evolpo.model.fp8 import kernels

        return stored(kernels.quantise(x, features, tokens), len(x))
    return stored(quantise_plainly(x, features, tokens), len(x))


def stored(parts: Parts, rows: int) -> Activations:
    """The two forms with their scales turned: what lies by rows is by columns the other way round."""
    values, scales, values_t, scales_t = parts
    return Activations(
        None if values is None or scales is None else Stored(values, scales.t()),
        None if values_t is None or scales_t is None else Stored(values_t, scales_t.t()),
        rows,
    )


def quantise_plainly(x: Tensor, features: bool, tokens: bool) -> Parts:
    """What `kernels.quantise` does, by PyTorch's operations: the definition it is held against."""
    rows, columns = x.shape
    values = scales = values_t = scales_t = None
    if features:
        tiles = nn.functional.pad(x.float(), (0, 0, 0, -rows % ROWS)).unflatten(1, (-1, TILE))  # type: ignore[no-untyped-call]
        by_row = scale_of(tiles.abs().amax(2))  # [N, K / 128]
        values = (tiles / by_row[..., None]).flatten(1).to(E4M3)
        scales = by_row.t().contiguous()
    if tokens:
        tiles = nn.functional.pad(x.float(), (0, 0, 0, -rows % TILE)).view(-1, TILE, columns)
        scales_t = scale_of(tiles.abs().amax(1))  # [N / 128, K]
        values_t = (tiles / scales_t[:, None]).flatten(0, 1).t().contiguous().to(E4M3)
    return values, scales, values_t, scales_t


def quantise_weight(weight: Tensor) -> tuple[Stored, Stored]:
    """[out, in] for the product with inputs, and transposed for the product with gradients; the blocks are the same."""
    if weight.is_cuda:
        from evolpo.model.fp8 import kernels

        values, values_t, scales = kernels.quantise_blocks(weight)
    else:
        blocks = quantise_blocks(weight)
        values, scales = blocks.values, blocks.scales
        values_t = values.t().contiguous()
    return Stored(values, _block_scales(scales)), Stored(values_t, _block_scales(scales.t()))


def _block_scales(scales: Tensor) -> Tensor:
    """[N / 128, K / 128] by columns and with K / 128 rounded up to 4: [K / 128 up to 4, N / 128]."""
    return nn.functional.pad(scales, (0, -scales.shape[1] % 4)).contiguous().t()


# -- products -----------------------------------------------------------------------------------------------------


def times(a: Stored, b: Stored, dtype: torch.dtype, blocks: bool) -> Tensor:
    """A B^T: A [M, K] in tiles along K, B [N, K] in blocks, or in tiles along K too."""
    kinds = nn.functional.ScalingType
    kind = kinds.BlockWise128x128 if blocks else kinds.BlockWise1x128
    return nn.functional.scaled_mm(
        a.values, b.values.t(), a.scales, kinds.BlockWise1x128, b.scales, kind, output_dtype=dtype
    )


class _Shared:
    """The last input: layers with one input in common quantise and keep it once."""

    def __init__(self) -> None:
        self.source: TensorWeakRef | None = None
        self.version = -1
        self.features: Stored | None = None
        self.tokens: TensorWeakRef | None = None
        self.token_scales: TensorWeakRef | None = None

    def quantise(self, x: Tensor, tokens: bool) -> Activations:
        known = self.source is not None and self.source() is x and self.version == x._version
        kept = self._tokens() if known else None
        if known and self.features is not None and (kept is not None or not tokens):
            return Activations(self.features, kept, x.numel() // x.shape[-1])
        made = quantise(x.detach().flatten(0, -2), tokens=tokens)
        self.source, self.version, self.features = TensorWeakRef(x), x._version, made.features
        # What the backward pass keeps dies with it.
        self.tokens = None if made.tokens is None else TensorWeakRef(made.tokens.values)
        self.token_scales = None if made.tokens is None else TensorWeakRef(made.tokens.scales)
        return made

    def _tokens(self) -> Stored | None:
        values = None if self.tokens is None else self.tokens()
        scales = None if self.token_scales is None else self.token_scales()
        return None if values is None or scales is None else Stored(values, scales)


_shared = _Shared()


class _HopperProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, name: str) -> Tensor:
        made = _shared.quantise(x, tokens=ctx.needs_input_grad[1])
        ctx.name, ctx.shape, ctx.dtype = name, x.shape, x.dtype
        kept = (None, None) if made.tokens is None else (made.tokens.values, made.tokens.scales)
        ctx.save_for_backward(weight, *kept)
        if watching():
            _look(name, ("x", "x_t"), x.detach().flatten(0, -2), made)
        y = times(_features(made), _weight(weight, name)[0], x.dtype, blocks=True)
        return y[: made.rows].view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, values, scales = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        dy = grads[0].flatten(0, -2).contiguous()
        made = quantise(dy, features=wanted[0], tokens=wanted[1])
        if watching():
            _look(ctx.name, ("dy", "dy_t"), dy, made)
        dx = dw = None
        if wanted[0]:
            dx = times(_features(made), _weight(weight, ctx.name)[1], ctx.dtype, blocks=True)
            dx = dx[: made.rows].view(ctx.shape)
        if wanted[1]:
            assert made.tokens is not None
            dw = times(made.tokens, Stored(values, scales), weight.dtype, blocks=False)
        return dx, dw, None


def _features(made: Activations) -> Stored:
    assert made.features is not None
    return made.features


def _weight(weight: Tensor, name: str) -> tuple[Stored, Stored]:
    make: Callable[[], tuple[Stored, Stored]] = lambda: quantise_weight(weight.detach())  # noqa: E731
    forms = held(weight, "stored", make)
    if watching():
        exact, (rows, columns) = weight.detach(), (size // TILE for size in weight.shape)
        watched(f"{name}.w", exact, Quantised(forms[0].values, forms[0].scales.t()[:rows, :columns]))
    return forms


def _look(name: str, tensors: tuple[str, str], exact: Tensor, made: Activations) -> None:
    if made.features is not None:
        watched(f"{name}.{tensors[0]}", exact, made.by_features())
    if made.tokens is not None:
        watched(f"{name}.{tensors[1]}", exact, made.by_tokens())


def fp8_product(x: Tensor, weight: Tensor, name: str = "") -> Tensor:
    """X W^T with all three products in FP8.

    Args:
        x: [..., N, K], on a device that `fits`.
        weight: [out, K], both multiples of 128.
        name: of the layer, for the safeguard metrics.

    Returns:
        [..., N, out] in the precision of `x`.
    """
    result: Tensor = _HopperProduct.apply(x, weight, name)  # type: ignore[no-untyped-call]
    return result
