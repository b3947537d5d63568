"""Starts a fleet of engines for whatever samples, after a look at whether it fits."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from evolpo import InputError
from evolpo.model import load_tokenizer
from evolpo.model.stored import parameters
from evolpo.recipes.runs.context import longest_tokens
from evolpo.rl.data import Group, Prompt
from evolpo.rollout.card import CPU_CACHE_GB, GIB
from evolpo.rollout.engine import FleetConfig, RolloutConfig, Sampling
from evolpo.rollout.engine_actor import EngineSettings, check_address
from evolpo.rollout.fleet import Fleet
from evolpo.rollout.prompts import DataConfig

if TYPE_CHECKING:
    from torch import Tensor

WIDTHS = {"bf16": 2, "fp32": 4}
"""Bytes of a weight by precision."""
PROCESS_BYTES = 600 << 20
"""What an engine's process takes beside weights and cache: measured, 0.6 GB with a model of a few million weights."""


def start_fleet(
    model: str,
    data: DataConfig,
    rollout: RolloutConfig,
    precision: str,
    seed: int,
    weight_bytes: int,
    adapter_rank: int,
    note: Callable[[str], None],
) -> Fleet:
    """Start the engines of `rollout.fleet` and wait for the first.

    Args:
        model: folder in Hugging Face layout.
        data: its longest prompt counts.
        rollout: memory, and the fleet.
        precision: "bf16" or "fp32".
        seed: of sampling without a seed of its own.
        weight_bytes: of the model.
        adapter_rank: of the adapter that comes alone after each step; 0: all weights come.
        note: gets a line when an engine dies or joins.

    Raises:
        InputError: it does not fit, the cluster cannot be had or has no room, or its machines differ.
    """
    import torch

    check_fleet(model, rollout, precision)
    fleet, cards = rollout.fleet, torch.cuda.is_available()
    settings = EngineSettings(
        model, rollout, precision, longest_tokens(data, rollout), seed, weight_bytes, adapter_rank
    )
    threads = fleet.threads or max(1, len(os.sched_getaffinity(0)) // (fleet.engines + 1))
    return Fleet(settings, fleet, load_tokenizer(model), threads, fleet.gpus_per_engine if cards else 0.0, note)


def check_fleet(model: str, rollout: RolloutConfig, precision: str) -> None:
    """Raise InputError unless the fleet can be had, if there is one: its cluster answers, or its engines fit here.

    Of the memory of GPUs and of other machines nothing is known. Weights on their way to the engines count.

    Args:
        model: folder in Hugging Face layout, or hub name: of a model that is not on disk nothing is known.
        rollout: memory, and the fleet.
        precision: "bf16" or "fp32".
    """
    import torch

    count = rollout.fleet.engines
    if rollout.fleet.address:
        check_address(rollout.fleet.address)
    if not count or rollout.fleet.address or torch.cuda.is_available() or not Path(model).is_dir():
        return
    weight_bytes = parameters(Path(model)) * WIDTHS[precision]
    each = weight_bytes + (rollout.kv_cache_gb or CPU_CACHE_GB) * GIB + PROCESS_BYTES
    free = psutil.virtual_memory().available
    if count * each + weight_bytes > free:
        most = max(0, int((free - weight_bytes) // each))
        raise InputError(
            f"rollout.fleet.engines: {count} engines of {each / GIB:.3g} GiB are more than the {free / GIB:.3g} GiB"
            f" that are free; give {most} or lower rollout.kv_cache_gb"
        )


def trainers(processes: int, fleet: FleetConfig) -> int:
    """Processes to train with beside a fleet: as many as asked for; 0: a card each of those that the engines leave."""
    import torch

    if processes or not fleet.engines or fleet.address:
        return processes
    return max(1, torch.cuda.device_count() - math.ceil(fleet.engines * fleet.gpus_per_engine))


def samplers(processes: int, fleet: FleetConfig) -> int:
    """Processes of a command that samples alone: one, where a fleet does it.

    Raises:
        InputError: more are asked for beside a fleet.
    """
    if fleet.engines and processes > 1:
        raise InputError(f"processes: {processes} beside a fleet have nothing to do; set processes=1")
    return 1 if fleet.engines else processes


class NoEngine:
    """In the place of an engine where nothing is sampled: on ranks other than 0 beside a fleet, and in a replay.

    Ranks take part in collecting weights all the same.
    """

    def __init__(self, takes_adapters: bool = False) -> None:
        self.version, self.takes_adapters = 0, takes_adapters
        self.asked: Callable[[], bool] = lambda: False

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, done: Callable[[Group], None] | None = None
    ) -> list[Group]:
        """Nothing, for nothing is asked of it."""
        assert not prompts, "there is no engine here"
        return []

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Go through them, for ranks collect them together."""
        for _ in weights:
            pass
        self.version = version

    def update_adapter(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], version: int) -> None:
        """Nothing more than note the version."""
        self.version = version

    def routing(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Nothing."""
        return []

    def sleep(self) -> bool:
        """It has no device."""
        return False
