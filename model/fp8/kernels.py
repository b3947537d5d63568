"""Quantisation on a GPU, in Triton: one pass over a tensor gives all forms that a layer's products need.

The arithmetic is that of `hopper.quantise_plainly` and `formats.quantise_blocks`, to the last bit: quotients are
rounded, not approximated.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from evolpo.model.fp8.formats import E4M3, ROWS, TILE, Parts

WARPS = 8


@triton.jit  # type: ignore[untyped-decorator]
def _scale(largest: tl.tensor) -> tl.tensor:
    """Scale of a tile of which this is the largest magnitude; 1 for a tile of zeros."""
    return tl.where(largest > 0, tl.div_rn(largest, 448.0), 1.0)


@triton.jit  # type: ignore[untyped-decorator]
def _both_forms(
    x: tl.tensor,
    values: tl.tensor,
    scales: tl.tensor,
    values_t: tl.tensor,
    scales_t: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    feature_rows: tl.tensor,
    token_rows: tl.tensor,
    features: tl.constexpr,
    tokens: tl.constexpr,
    tile: tl.constexpr,
) -> None:
    """One tile of 128 x 128; its place in the grid is (tile of rows, tile of columns)."""
    row = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    column = tl.program_id(1).to(tl.int64) * tile + tl.arange(0, tile)
    places = row[:, None] * columns + column[None, :]
    exact = tl.load(x + places, mask=row[:, None] < rows, other=0.0).to(tl.float32)
    magnitude = tl.abs(exact)
    if features:
        scale = _scale(tl.max(magnitude, axis=1))
        kept = tl.div_rn(exact, scale[:, None]).to(tl.float8e4nv)
        tl.store(values + places, kept, mask=row[:, None] < feature_rows)
        tl.store(scales + tl.program_id(1).to(tl.int64) * feature_rows + row, scale, mask=row < feature_rows)
    if tokens:
        scale_t = _scale(tl.max(magnitude, axis=0))
        kept_t = tl.div_rn(exact, scale_t[None, :]).to(tl.float8e4nv)
        tl.store(values_t + column[:, None] * token_rows + row[None, :], tl.trans(kept_t))
        tl.store(scales_t + tl.program_id(0).to(tl.int64) * columns + column, scale_t)


@triton.jit  # type: ignore[untyped-decorator]
def _blocks(
    weight: tl.tensor,
    values: tl.tensor,
    values_t: tl.tensor,
    scales: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    tile: tl.constexpr,
) -> None:
    """One block of 128 x 128."""
    row = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    column = tl.program_id(1).to(tl.int64) * tile + tl.arange(0, tile)
    places = row[:, None] * columns + column[None, :]
    exact = tl.load(weight + places).to(tl.float32)
    scale = _scale(tl.max(tl.max(tl.abs(exact), axis=1), axis=0))
    kept = tl.div_rn(exact, scale).to(tl.float8e4nv)
    tl.store(values + places, kept)
    tl.store(values_t + column[:, None] * rows + row[None, :], tl.trans(kept))
    tl.store(scales + tl.program_id(0) * (columns // tile) + tl.program_id(1), scale)


def quantise(x: Tensor, features: bool, tokens: bool) -> Parts:
    """[N, K], K a multiple of 128, in tiles along the features, along the tokens, or both; see `hopper.Parts`."""
    x = x.contiguous()
    rows, columns = x.shape
    feature_rows, token_rows = rows + -rows % ROWS, rows + -rows % TILE

    def empty(wanted: bool, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor | None:
        return torch.empty(shape, dtype=dtype, device=x.device) if wanted else None

    parts = (
        empty(features, feature_rows, columns, dtype=E4M3),
        empty(features, columns // TILE, feature_rows),
        empty(tokens, columns, token_rows, dtype=E4M3),
        empty(tokens, token_rows // TILE, columns),
    )
    grid = (token_rows // TILE, columns // TILE)
    if rows:
        _both_forms[grid](x, *parts, rows, columns, feature_rows, token_rows, features, tokens, TILE, num_warps=WARPS)
    return parts


def quantise_blocks(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[out, in], multiples of 128: values, values transposed, and the scales [out / 128, in / 128] of both."""
    weight = weight.contiguous()
    rows, columns = weight.shape
    values = torch.empty_like(weight, dtype=E4M3)
    values_t = values.new_empty(columns, rows)
    scales = torch.empty(rows // TILE, columns // TILE, dtype=torch.float32, device=weight.device)
    _blocks[(rows // TILE, columns // TILE)](weight, values, values_t, scales, rows, columns, TILE, num_warps=WARPS)
    return values, values_t, scales
