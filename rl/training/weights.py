"""The weights of a policy under the names of its checkpoints, gathered from wherever they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor, nn

from evolpo.model.names import by_layer, published
from evolpo.rl.training.expert_parallel import spread_layers, whole_experts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def named_weights(model: PreTrainedModel, zero_stage: int) -> Iterator[tuple[str, Tensor]]:
    """All weights as full tensors under the names of their checkpoints; every rank must run through it."""
    import deepspeed

    spread = spread_layers(model)
    for name, layer in spread.items():
        yield from whole_experts(layer, name)
    moved = tuple(f"{name}.{part}." for name in spread for part in ("router", "experts"))
    saved = model.state_dict(keep_vars=True)
    named = [*model.named_parameters(), *((name, b) for name, b in model.named_buffers() if name in saved)]
    named = [(name, tensor) for name, tensor in named if not name.startswith(moved)]
    for part in by_layer(named):
        gathered = [t for _, t in part if isinstance(t, nn.Parameter)] if zero_stage == 3 else []
        with deepspeed.zero.GatheredParameters(gathered, enabled=bool(gathered)):
            yield from published(model, [(name, tensor.data) for name, tensor in part])
