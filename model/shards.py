"""Weights on their way to safetensors files: a file is written as soon as it is full, so that no more is held.

How many files there will be is known at the end alone. Until then they have names of their own, and a model that fits
into one file ends as `model.safetensors`, others as `model-00001-of-00003.safetensors` ... with an index beside them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from evolpo.model.stored import INDEX

SHARD_BYTES = 5 * 10**9
"""Most bytes of tensors in a file; one that is larger has a file of its own."""
Work = Callable[[], None]
"""Something that is written, with all that it needs on the host."""
Do = Callable[[Work], None]
"""Takes what is to be written, in this order: does it, or keeps it for a thread."""


def at_once(work: Work) -> None:
    """Write now."""
    work()


def write_shards(tensors: Iterable[tuple[str, Tensor]], folder: Path, do: Do = at_once, most: int = 0) -> None:
    """Write tensors into safetensors files of a folder; of those that are taken, one file's are held at a time.

    Args:
        tensors: by their names, each once, wherever they are; each may be gone when the next is asked for.
        folder: is there.
        do: what becomes of a file's tensors once they are on the host.
        most: bytes of tensors in a file; 0: `SHARD_BYTES`.

    Raises:
        OSError, SafetensorError: the disk refuses.
    """
    most = most or SHARD_BYTES
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}
    size = total = numbers = 0
    for name, tensor in tensors:
        if held and size + tensor.nbytes > most:
            do(partial(_write, held, _part(folder, len(shards))))
            shards.append(list(held))
            held, size = {}, 0
        held[name] = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        size += tensor.nbytes
        total += tensor.nbytes
        numbers += tensor.numel()
    do(partial(_write, held, _part(folder, len(shards))))
    shards.append(list(held))
    do(partial(_name, folder, shards, {"total_parameters": numbers, "total_size": total}))


def _part(folder: Path, number: int) -> Path:
    """A file of which it is not known yet of how many it is one."""
    return folder / f"model-{number + 1:05d}.part"


def _write(tensors: dict[str, Tensor], file: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, file, metadata={"format": "pt"})


def _name(folder: Path, shards: Sequence[Sequence[str]], metadata: dict[str, int]) -> None:
    """Give files their names, and write which tensor is in which if there are several."""
    count = len(shards)
    if count == 1:
        _part(folder, 0).rename(folder / "model.safetensors")
        return
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    for number, name in enumerate(names):
        _part(folder, number).rename(folder / name)
    places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {"metadata": metadata, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
