"""Sums of metrics over micro-batches, optimizer steps and ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _exact(value: float | Tensor) -> Any:
    return value.detach().double() if isinstance(value, Tensor) else value


def _extreme(name: str, first: Any, second: Any) -> Any:
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        first, second = (torch.as_tensor(one, dtype=torch.float64) for one in (first, second))
        return torch.maximum(first, second) if name.endswith("/max") else torch.minimum(first, second)
    return max(first, second) if name.endswith("/max") else min(first, second)


class Totals:
    """Weighted means, sums and extremes by name.

    Values may be tensors on a device: they stay there, and `reduce` reads all of them at once.
    """

    def __init__(self) -> None:
        self.weighted: dict[str, Any] = {}
        self.weights: dict[str, float] = {}
        self.sums: dict[str, Any] = {}
        self.extremes: dict[str, Any] = {}

    def add(self, name: str, value: float | Tensor, weight: float) -> None:
        """Add to a weighted mean; names that end in /max or /min keep the extreme instead."""
        value = _exact(value)
        if name.endswith(("/max", "/min")):
            known = self.extremes.get(name)
            self.extremes[name] = value if known is None else _extreme(name, known, value)
        else:
            self.weighted[name] = self.weighted.get(name, 0.0) + value * weight
            self.weights[name] = self.weights.get(name, 0.0) + weight

    def add_sum(self, name: str, value: float | Tensor) -> None:
        """Add to a sum."""
        self.sums[name] = self.sums.get(name, 0.0) + _exact(value)

    def _read(self) -> None:
        """Bring what lies on a device to the host, in one transfer."""
        places = [(one, name) for one in (self.weighted, self.sums, self.extremes) for name in one]
        waiting = [(one, name) for one, name in places if isinstance(one[name], Tensor)]
        if waiting:
            values = torch.stack([one[name] for one, name in waiting]).tolist()
            for (one, name), value in zip(waiting, values, strict=True):
                one[name] = value

    def reduce(self) -> dict[str, float]:
        """The metrics over all ranks; ranks may know different names."""
        self._read()
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, self)
        whole = Totals()
        for one in gathered:
            for name, value in one.extremes.items():
                whole.add(name, value, 1.0)
            for name, value in one.sums.items():
                whole.add_sum(name, value)
            for name, value in one.weighted.items():
                whole.weighted[name] = whole.weighted.get(name, 0.0) + value
                whole.weights[name] = whole.weights.get(name, 0.0) + one.weights[name]
        means = {name: value / whole.weights[name] for name, value in whole.weighted.items() if whole.weights[name]}
        return means | whole.sums | whole.extremes
