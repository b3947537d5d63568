"""One rank's optimizer state on disk: fp32 weights and Adam moments as safetensors, whatever the ZeRO stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evolpo import InputError
from evolpo.model.digests import OPTIMIZER
from evolpo.model.shards import Do, at_once


def _inner(optimizer: Any) -> Any:
    """The Adam inside DeepSpeed's wrapper, or the optimizer itself."""
    return getattr(optimizer, "optimizer", optimizer)


def master_tensors(optimizer: Any, zero_stage: int) -> list[Tensor]:
    """This rank's fp32 weights, as the optimizer holds them."""
    if zero_stage == 3:
        return list(optimizer.fp32_partitioned_groups_flat)
    return [p for group in _inner(optimizer).param_groups for p in group["params"]]


def large_tensors(optimizer: Any, zero_stage: int) -> list[Tensor]:
    """This rank's fp32 weights and Adam moments: what an update needs and nothing else does."""
    states = _inner(optimizer).state
    masters = master_tensors(optimizer, zero_stage)
    moments = [value for master in masters for value in states.get(master, {}).values()]
    return [tensor for tensor in (*masters, *moments) if torch.is_tensor(tensor) and tensor.dim()]


def empty_sums(optimizer: Any) -> list[Tensor]:
    """Where DeepSpeed adds gradients up in stage 1 (bf16 weights): zero between two updates, 4 bytes a weight."""
    return list(getattr(optimizer, "fp32_groups_gradients_flat", []))


def promised_bytes(optimizer: Any, zero_stage: int) -> int:
    """Bytes that Adam takes in its first step: two moments of every weight that has none yet."""
    states = _inner(optimizer).state
    return sum(2 * one.numel() * 4 for one in master_tensors(optimizer, zero_stage) if not states.get(one))


def written_by(rank: int, zero_stage: int) -> int:
    """The rank whose file holds the state of a rank: its own, or rank 0's in stage 0, where all have the same."""
    return rank if zero_stage else 0


def save(
    optimizer: Any,
    zero_stage: int,
    folder: Path,
    rank: int,
    world: int,
    seen: Callable[[Tensor], Tensor] = lambda one: one,
    do: Do | None = None,
) -> None:
    """Write the state of this rank into a checkpoint's folder.

    Args:
        optimizer: of DeepSpeed, or plain.
        zero_stage: how it is spread.
        folder: is there.
        rank: this one.
        world: number of ranks.
        seen: shows tensors that may be elsewhere.
        do: is given what is to be written, copied to the host; None writes it now, without a copy on a CPU.
    """
    from safetensors.torch import save_file

    def host(tensor: Tensor) -> Tensor:
        shown = seen(tensor).detach()
        return shown.cpu() if do is None else torch.empty(shown.shape, dtype=shown.dtype).copy_(shown)

    tensors: dict[str, Tensor] = {"zero_stage": torch.tensor(zero_stage), "world": torch.tensor(world)}
    for i, master in enumerate(master_tensors(optimizer, zero_stage)):
        tensors[f"{i}.master"] = host(master)
        for name, value in _inner(optimizer).state.get(master, {}).items():
            tensors[f"{i}.{name}"] = host(torch.as_tensor(value))
    (folder / OPTIMIZER).mkdir(exist_ok=True)
    (do or at_once)(lambda: save_file(tensors, folder / OPTIMIZER / f"rank_{rank}.safetensors"))


def load(optimizer: Any, zero_stage: int, folder: Path, rank: int, world: int) -> None:
    """Read what `save` wrote for this rank.

    Raises:
        InputError: the checkpoint was written by another number of ranks or another ZeRO stage.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    first = folder / OPTIMIZER / "rank_0.safetensors"
    with safe_open(first, framework="pt") as file:
        stage, ranks = (int(file.get_tensor(name)) for name in ("zero_stage", "world"))
    if stage != zero_stage:  # stages 1 and 3 cut the weights differently into tensors of one size
        raise InputError(f"resume: {folder} was written under trainer.zero_stage={stage}; use the same")
    if ranks != world:
        raise InputError(f"resume: {folder} was written by {ranks} ranks, this run has {world}; use {ranks}")
    tensors = load_file(folder / OPTIMIZER / f"rank_{written_by(rank, zero_stage)}.safetensors")
    for i, master in enumerate(master_tensors(optimizer, zero_stage)):
        master.data.copy_(tensors.pop(f"{i}.master"))
        names = [name for name in tensors if name.startswith(f"{i}.")]
        device = {"step": torch.device("cpu")} if not torch.cuda.is_available() else {}
        _inner(optimizer).state[master] = {
            name.split(".", 1)[1]: tensors[name].to(device.get(name, master.device)) for name in names
        }
