"""Tensors on their way to engines in other processes: laid end to end in flat buckets of bytes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUCKET_BYTES = 64 << 20
"""One bucket; a larger tensor has one of its own. Smaller ones cost more calls, one large one cannot be read early."""
ALIGNMENT = 64
"""Bytes at whose multiples tensors begin."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies in its bucket."""

    name: str
    dtype: str
    """A name in `torch`, such as bfloat16."""
    shape: tuple[int, ...]
    start: int
    """Its first byte."""


Contents = tuple[Entry, ...]
Bucket = NDArray[np.uint8]


def packed(
    tensors: Iterable[tuple[str, Tensor]], bucket_bytes: int = BUCKET_BYTES
) -> Iterator[tuple[Contents, Bucket]]:
    """Buckets with tables of contents, in order; a bucket is made when it is asked for, and tensors may be live.

    Args:
        tensors: of any type and device.
        bucket_bytes: size of a bucket.
    """
    held: list[tuple[Entry, Tensor]] = []
    end = 0
    for name, tensor in tensors:
        if held and end + tensor.nbytes > bucket_bytes:
            yield _bucket(held, end)
            held, end = [], 0
        entry = Entry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), end)
        held.append((entry, tensor.detach()))
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    if held:
        yield _bucket(held, end)


def _bucket(held: Sequence[tuple[Entry, Tensor]], size: int) -> tuple[Contents, Bucket]:
    bucket = np.zeros(size, np.uint8)
    whole = torch.from_numpy(bucket)
    for entry, tensor in ((entry, tensor) for entry, tensor in held if tensor.nbytes):
        whole[entry.start : entry.start + tensor.nbytes].view(tensor.dtype).copy_(tensor.reshape(-1))
    return tuple(entry for entry, _ in held), bucket


def unpacked(contents: Contents, bucket: Bucket) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a bucket, without a copy; they must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        whole = torch.from_numpy(bucket)
    for entry in contents:
        dtype = getattr(torch, entry.dtype)
        size = dtype.itemsize * int(np.prod(entry.shape, dtype=np.int64))
        part = whole[entry.start : entry.start + size]
        yield entry.name, part.view(dtype).view(entry.shape) if size else torch.empty(entry.shape, dtype=dtype)
