"""E4M3 with float32 scales: matrices in tiles along features, in tiles along tokens, in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
"""Largest value of E4M3, 448."""
TILE = 128
ROWS = 16
"""Rows of a matrix in tiles along the features are filled up with zeros to a multiple of this on Hopper."""
Parts = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""[N, K] in two forms as Hopper's products read them: values [N up to 16, K] and scales [K / 128, N up to 16] in tiles
along the features; values [K, N up to 128] and scales [N / 128, K] in tiles along the tokens."""


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


def scale_of(largest: Tensor) -> Tensor:
    """Scale that maps the largest magnitude of a tile to that of the format; 1 for a tile of zeros."""
    largest = largest.float()
    # By a tensor: on GPUs PyTorch takes a number's reciprocal, and the last bit would be another one.
    return torch.where(largest > 0, largest / torch.full_like(largest, LARGEST), 1.0)


def quantise_features(x: Tensor) -> Quantised:
    """[N, K] in tiles of one row and 128 columns, the last one shorter."""
    columns = x.shape[-1]
    padded = nn.functional.pad(x.abs(), (0, -columns % TILE))
    scales = scale_of(padded.view(len(x), -1, TILE).amax(dim=-1))  # [N, K / 128]
    expanded = scales.repeat_interleave(TILE, dim=1)[:, :columns]
    return Quantised((x.float() / expanded).to(E4M3), scales)


def quantise_tokens(x: Tensor, rows: Tensor) -> Quantised:
    """[N, K] in tiles of `rows` [tiles] rows, at most 128 each, and one column."""
    largest = torch.segment_reduce(x.abs().float(), "max", lengths=rows, axis=0)  # [tiles, K]
    scales = scale_of(largest)
    return Quantised((x.float() / scales.repeat_interleave(rows, dim=0)).to(E4M3), scales, rows)


def quantise_blocks(weight: Tensor) -> Quantised:
    """[..., N, K] in blocks of 128 x 128, the last ones smaller."""
    rows, columns = weight.shape[-2:]
    padded = nn.functional.pad(weight.abs(), (0, -columns % TILE, 0, -rows % TILE))
    tiles = padded.unflatten(-1, (-1, TILE)).unflatten(-3, (-1, TILE))  # type: ignore[no-untyped-call]
    scales = scale_of(tiles.amax(dim=(-1, -3)))  # [..., N / 128, K / 128]
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
