"""The ranks of a run: started, and what they tell each other."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]

from evolpo.rl.training.determinism import keep_order_of_sums

Value = TypeVar("Value")


def init_distributed() -> tuple[int, int]:
    """Start torch.distributed from torchrun's environment, or alone; returns (rank, world size)."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    keep_order_of_sums()
    import deepspeed

    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it, whoever started torch.distributed.
    if not torch.distributed.is_initialized():
        # Compiled on first use where it is compatible; gloo does the same without a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if os.environ.get("WORLD_SIZE", "1") == "1":
            # One rank has nobody to meet: no port that another process may hold, and no rank that children inherit.
            store = HashStore()
            torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        deepspeed.init_distributed(backend, verbose=False, timeout=timedelta(minutes=30))
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def from_rank_0(value: Value) -> Value:
    """The value that rank 0 gives, on every rank; a process that is no rank has its own."""
    if not torch.distributed.is_initialized():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


class Alone:
    """A process without others: what `Ranks` tells and does, with nothing to start."""

    rank, world = 0, 1

    def gather(self, value: Any) -> list[Any]:
        """Its own value."""
        return [value]


def meet() -> Ranks | Alone:
    """The ranks that a launcher started this process among, or this process alone."""
    return Alone() if os.environ.get("WORLD_SIZE", "1") == "1" else Ranks()


class Ranks:
    """All processes of a run, this one among them."""

    def __init__(self) -> None:
        """Join them; see `init_distributed`."""
        self.rank, self.world = init_distributed()
        self._device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"

    def barrier(self) -> None:
        """Wait for all ranks."""
        torch.distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order of rank."""
        gathered: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def sum_over_ranks(self, value: float) -> float:
        """Sum of a number over all ranks."""
        return self._all_reduce(value, torch.distributed.ReduceOp.SUM)

    def max_over_ranks(self, value: float) -> float:
        """Largest of a number over all ranks."""
        return self._all_reduce(value, torch.distributed.ReduceOp.MAX)

    def _all_reduce(self, value: float, operation: Any) -> float:
        tensor = torch.tensor([value], dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(tensor, operation)
        return float(tensor)


class Beside:
    """What the ranks tell each other in a thread beside the one that trains, in a group of their own over gloo.

    Messages of one group must not cross, and NCCL's would wait for the work of the card. Made by all ranks at once.
    """

    def __init__(self, world: int) -> None:
        self._world = world
        self._group = torch.distributed.new_group(backend="gloo") if world > 1 else None

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order of rank."""
        if self._group is None:
            return [value]
        gathered: list[Any] = [None] * self._world
        torch.distributed.all_gather_object(gathered, value, group=self._group)
        return gathered
