"""Sums of metrics over micro-batches, optimizer steps and ranks."""

from __future__ import annotations

import math
from typing import Any

import torch


class Totals:
    """Weighted means, sums and extremes by name."""

    def __init__(self) -> None:
        self.weighted: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        self.sums: dict[str, float] = {}
        self.extremes: dict[str, float] = {}

    def add(self, name: str, value: float, weight: float) -> None:
        """Add to a weighted mean; names that end in /max or /min keep the extreme instead."""
        if name.endswith("/max"):
            self.extremes[name] = max(value, self.extremes.get(name, -math.inf))
        elif name.endswith("/min"):
            self.extremes[name] = -max(-value, -self.extremes.get(name, math.inf))
        else:
            self.weighted[name] = self.weighted.get(name, 0.0) + value * weight
            self.weights[name] = self.weights.get(name, 0.0) + weight

    def add_sum(self, name: str, value: float) -> None:
        """Add to a sum."""
        self.sums[name] = self.sums.get(name, 0.0) + value

    def reduce(self) -> dict[str, float]:
        """The metrics over all ranks; ranks may know different names."""
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
