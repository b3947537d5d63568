"""Units of responses as tensors: what turns values of tokens [B, T] into values of units [B, U]."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Unit = Literal["given", "token", "sequence"]
"""What a unit is: the ids given, a single token, or the whole response."""


class Units:
    """The units of B responses, for means over them.

    What is worked out by unit costs U places a row instead of T: for sentences one in twenty.

    Args:
        mask: [B, T] bool, True on response tokens, with B and T at least 1.
        ids: [B, T] int64, unit ids from 0 inside each row, ignored where the mask is False; read only if `unit` is
            "given".
        unit: what a unit is.
    """

    lengths: Tensor
    """[B, U] float32, response tokens of each unit; 0 where a row has no such unit."""

    def __init__(self, mask: Tensor, ids: Tensor, unit: Unit) -> None:
        self._mask = mask
        self._unit = unit
        if unit == "given":
            self._ids = ids.masked_fill(~mask, 0)
            self._most = int(self._ids.max()) + 1
        self.lengths = self._sum(mask.float())

    def mean(self, values: Tensor) -> Tensor:
        """Mean of values [B, T] over the response tokens of each unit, [B, U]; 0 for a unit without tokens."""
        values = values.masked_fill(~self._mask, 0.0)
        return values if self._unit == "token" else self._sum(values) / self.lengths.clamp(min=1)

    def _sum(self, values: Tensor) -> Tensor:
        """Sum of values [B, T], zero outside the mask, over each unit."""
        if self._unit == "token":
            return values
        if self._unit == "sequence":
            return values.sum(dim=1, keepdim=True)
        return torch.zeros(len(values), self._most, dtype=values.dtype, device=values.device).scatter_add(
            1, self._ids, values
        )
