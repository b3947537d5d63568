"""The weights of a policy under the names of its checkpoints, gathered from wherever they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor, nn

from evolpo.model.lora import adapter_layers, adapter_parameters, fold
from evolpo.model.names import by_layer, published
from evolpo.rl.training.expert_parallel import spread_layers, whole_experts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def named_weights(model: PreTrainedModel, zero_stage: int) -> Iterator[tuple[str, Tensor]]:
    """Weights as full tensors under the names of their checkpoints; every rank must run through it.

    Args:
        model: adapters in it are folded into the matrices that they stand beside.
        zero_stage: 3 gathers them.
    """
    import deepspeed

    spread = spread_layers(model)
    for name, layer in spread.items():
        yield from whole_experts(layer, name)
    moved = tuple(f"{name}.{part}." for name in spread for part in ("router", "experts"))
    saved = model.state_dict(keep_vars=True)
    named = [*model.named_parameters(), *((name, b) for name, b in model.named_buffers() if name in saved)]
    named = [(name, tensor) for name, tensor in named if not name.startswith(moved)]
    layers = adapter_layers(model)
    for part in by_layer(named):
        gathered = [t for _, t in part if isinstance(t, nn.Parameter)] if zero_stage == 3 else []
        with deepspeed.zero.GatheredParameters(gathered, enabled=bool(gathered)):
            yield from published(model, list(fold([(name, tensor.data) for name, tensor in part], layers)))


def adapter_weights(model: PreTrainedModel, zero_stage: int) -> dict[str, Tensor]:
    """The adapters as full tensors on the CPU under PEFT's names; every rank must run through it."""
    import deepspeed

    named = adapter_parameters(model)
    with deepspeed.zero.GatheredParameters(list(named.values()), enabled=zero_stage == 3):
        return {name: tensor.detach().cpu().clone() for name, tensor in named.items()}
