"""The weights of a policy under the names of its checkpoints, gathered from wherever they are."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from evolpo.model.weights import published
from evolpo.rl.training.expert_parallel import spread_layers, whole_experts

GATHERED = 64
"""Tensors that ZeRO 3 puts together at a time."""


def named_weights(model: nn.Module, zero_stage: int) -> Iterator[tuple[str, Tensor]]:
    """All weights as full tensors under the names of their checkpoints; every rank must run through it."""
    spread = spread_layers(model)
    for name, layer in spread.items():
        yield from whole_experts(layer, name)
    moved = tuple(f"{name}.{part}." for name in spread for part in ("router", "experts"))
    saved = model.state_dict(keep_vars=True)
    named = [*model.named_parameters(), *((name, b) for name, b in model.named_buffers() if name in saved)]
    named = [(name, tensor) for name, tensor in named if not name.startswith(moved)]
    if zero_stage < 3:
        for name, tensor in named:
            yield from published(name, tensor.data)
        return
    import deepspeed

    for start in range(0, len(named), GATHERED):
        part = named[start : start + GATHERED]
        with deepspeed.zero.GatheredParameters([t for _, t in part if isinstance(t, nn.Parameter)]):
            for name, tensor in part:
                yield from published(name, tensor.data)
