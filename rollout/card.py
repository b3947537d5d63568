"""The engine's place on a GPU that a trainer shares: how much memory it asks for, and the stream it works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from evolpo import InputError

GIB = 1 << 30
BESIDE = 4 * GIB
"""Bytes that an engine needs beside weights and cache: activations of a pass, graphs, communication."""
LARGEST_SHARE = 0.98
"""Of the free memory, at most this is asked for: the driver holds some, and vLLM measures once more."""
CPU_CACHE_GB = 2.0
"""Size of the key-value cache on a CPU, GiB, if none is given."""


@dataclass(frozen=True)
class Share:
    """What the engine asks for."""

    cache_bytes: int
    """Of the key-value cache."""
    utilization: float
    """Share of the device's whole memory that vLLM must find free; it looks, even where the cache's size is given."""


def engine_share(free: int, total: int, weights: int, cache_gb: float, promised: int = 0) -> Share:
    """Weights, a key-value cache and what a pass takes, in what the trainer leaves free.

    Args:
        free: bytes that are free on the device, the trainer on it.
        total: bytes of the device.
        weights: bytes of the engine's weights.
        cache_gb: wanted size of the cache, GiB; 0: all that is left.
        promised: bytes that the trainer will hold beside what it holds now while the engine samples.

    Raises:
        InputError: it does not fit; with what is held and what helps.
    """
    room = int(free * LARGEST_SHARE) - weights - BESIDE - promised
    cache = int(cache_gb * GIB) or room
    if cache > room or room <= 0:
        asked = f"{cache_gb:g} GiB for the cache" if cache_gb else "a cache"
        raise InputError(
            f"rollout.kv_cache_gb: {asked} beside {weights / GIB:.1f} GiB of weights and {BESIDE / GIB:.0f} of work "
            f"do not fit: of {total / GIB:.1f} GiB {free / GIB:.1f} are free, and the trainer will take "
            f"{promised / GIB:.1f} of them; set trainer.offload=rollout, a higher trainer.zero_stage, a smaller cache "
            f"or more GPUs"
        )
    return Share(cache, (weights + cache + BESIDE) / total)


class EngineStream:
    """vLLM changes the stream of its thread for good, to capture graphs; the trainer's work must stay on its own.

    Each call of the engine runs on the stream that vLLM left there, after what was begun before it, and what follows
    runs on the stream from before, after the call. Where the trainer lets PyTorch refuse kernels that add in no fixed
    order, the engine's calls are only warned: vLLM has kernels of its own for what must be in order.
    """

    def __init__(self) -> None:
        self._own: Any = None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """A block of calls of the engine; without a GPU there are no streams."""
        if not torch.cuda.is_available():
            yield
            return
        strict = torch.get_deterministic_debug_mode() == 2
        if strict:
            torch.use_deterministic_algorithms(True, warn_only=True)
        outside = torch.cuda.current_stream()
        if self._own is not None and self._own != outside:
            self._own.wait_stream(outside)
            torch.cuda.set_stream(self._own)
        try:
            yield
        finally:
            inside = torch.cuda.current_stream()
            if inside != outside:
                self._own = inside
                outside.wait_stream(inside)
                torch.cuda.set_stream(outside)
            if strict:
                torch.use_deterministic_algorithms(True)
