"""The ranks that one engine spans, and what they ask each other."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

Value = TypeVar("Value")


class EngineRanks:
    """The ranks that hold a model's weights among them; of an engine on one device there is one, with nobody to ask.

    vLLM runs a scheduler on each of them. They stay together because all get the same requests in the same order and
    sample the same tokens.
    """

    def __init__(self, size: int = 1, rank: int = 0, group: Any = None) -> None:
        """Take the place of this process.

        Args:
            size: of the engine, in ranks.
            rank: of this process among them.
            group: of torch.distributed, with a backend for the CPU; None for an engine on one device.
        """
        self.size, self.rank, self._group = size, rank, group

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in order of rank; every one of them calls it."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(gathered, value, group=self._group)
        return gathered

    def any(self, flag: bool) -> bool:
        """Whether one of them says yes; every one of them calls it."""
        if self.size == 1:
            return flag
        said = torch.tensor([int(flag)])
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(said)
