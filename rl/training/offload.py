"""Optimizer states in the CPU's memory while the engine samples: storages are emptied, and filled again in place.

DeepSpeed's own `offload_states` moves tensors and mends the views that it knows of; in stage 3 it takes its own Adam
alone, in stage 1 with float32 gradients none. An emptied storage needs no mending: all views of it stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Away:
    """Tensors whose storages have been emptied, and their bytes on the host."""

    def __init__(self) -> None:
        self._hosts: dict[int, Tensor] = {}
        self._sent: dict[int, Any] = {}
        self._zeros: list[tuple[Any, int]] = []

    def send(self, tensors: Iterable[Tensor], zeros: Iterable[Tensor] = (), keep: Iterable[Tensor] = ()) -> int:
        """Copy the storages of tensors to the host and empty them; gives the bytes that became free.

        A storage that several tensors share goes once, and one that `keep` shares, as fp32 weights that are their own
        masters do, stays. Those of `zeros` are emptied without a copy, and zero after. Tensors must not be used before
        `fetch`.
        """
        fresh: dict[int, Any] = {}
        kept = {tensor.untyped_storage()._cdata for tensor in keep}
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._sent and storage._cdata not in kept and storage.nbytes():
                fresh[storage._cdata] = storage
        for key, storage in fresh.items():
            host = self._hosts.get(key)
            if host is None or host.numel() != storage.nbytes():
                pinned = storage.device.type == "cuda"
                self._hosts[key] = host = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=pinned)
            host.copy_(_bytes(storage), non_blocking=True)
        _wait()
        free = sum(int(storage.nbytes()) for storage in fresh.values())
        for storage in fresh.values():
            storage.resize_(0)
        self._sent |= fresh
        for storage in (tensor.untyped_storage() for tensor in zeros):
            if not storage.nbytes():
                continue  # away already
            free += int(storage.nbytes())
            self._zeros.append((storage, storage.nbytes()))
            storage.resize_(0)
        return free

    def fetch(self) -> None:
        """Fill all storages again; their tensors are what they were, to the last bit."""
        for key, storage in self._sent.items():
            host = self._hosts[key]
            storage.resize_(host.numel())
            _bytes(storage).copy_(host, non_blocking=True)
        for storage, size in self._zeros:
            storage.resize_(size)
            _bytes(storage).zero_()
        _wait()
        self._sent, self._zeros = {}, []

    def seen(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or what the host has of it while it is away; not to be changed."""
        key = tensor.untyped_storage()._cdata
        if key not in self._sent:
            return tensor
        host = self._hosts[key].view(tensor.dtype)
        return host.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def _bytes(storage: Any) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
