"""Experts spread over ranks by DeepSpeed's AutoEP: its settings for Ling 2.0, and the way back to published names.

AutoEP puts a layer of its own in the place of `SparseMLP`: the router whole on every rank, of the experts a share, and
tokens that go to their experts and come back by all-to-all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from evolpo import InputError
from evolpo.model.experts import Router, routers

MATRICES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
"""AutoEP's names of an expert's weights, and the published ones."""


def prepare(model: nn.Module, size: int, world: int) -> dict[str, Any]:
    """DeepSpeed's section `expert_parallel` for a Ling 2.0 model; shows AutoEP the experts' biases under its own name.

    Raises:
        InputError: the model has no experts, or they do not go evenly over the ranks.
    """
    found = routers(model)
    if not found:
        raise InputError("trainer.expert_parallel: the model has no experts; use 1")
    router = found[0]
    if world % size or router.experts % size:
        raise InputError(
            f"trainer.expert_parallel: {size} must divide {router.experts} experts and {world} ranks; use a divisor"
        )
    for one in found:
        one.register_buffer("e_score_correction_bias", one.expert_bias.clone())
    return {
        "enabled": True,
        "autoep_size": size,
        "moe_layer_pattern": r"(?:.+\.)?layers\.\d+\.mlp",
        "router_pattern": "gate",
        "expert_pattern": "experts",
        "expert_w1": "gate_up_proj",
        "expert_w2": "down_proj",
        "expert_w3": None,
        "has_shared_experts": True,
        "shared_experts_pattern": "shared_experts",
        "score_func": "sigmoid",
        "score_apply": "post",
        "route_norm": True,
        "routed_scaling_factor": router.scaling,
        "top_k": router.used,
        "num_expert_groups": router.groups,
        "num_limited_groups": router.used_groups,
    }


def spread_layers(model: nn.Module) -> dict[str, Any]:
    """AutoEP's layers by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "tokens_per_expert")}


class SpreadRouter:
    """The router of an AutoEP layer as `evolpo.model.balance` wants it: with its bias and its load."""

    def __init__(self, layer: Any) -> None:
        self.expert_bias: Tensor = layer.router.e_score_correction_bias
        self.load = torch.zeros_like(layer.tokens_per_expert, dtype=torch.int64)
        layer.router.register_forward_hook(self._count)

    def _count(self, _: nn.Module, __: Any, result: tuple[Tensor, Tensor, Tensor]) -> None:
        if torch.is_grad_enabled():  # AutoEP's own count takes passes without training in
            self.load += result[2]


def balanced_routers(model: nn.Module) -> list[Router | SpreadRouter]:
    """The routers whose load is to be evened out, spread or not; call it once."""
    return [*routers(model), *(SpreadRouter(layer) for layer in spread_layers(model).values())]


def whole_experts(layer: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Router and experts of one AutoEP layer called `name`, all ranks' experts together, under their published names.

    Every rank of the layer's group must run through it.
    """
    yield f"{name}.gate.weight", layer.router.gate.weight.data
    yield f"{name}.gate.expert_bias", layer.router.e_score_correction_bias
    for short, long in MATRICES.items():
        own = getattr(layer.experts, short).data.contiguous()  # [E / ranks, ...]
        parts = [torch.empty_like(own) for _ in range(layer.ep_size)]
        torch.distributed.all_gather(parts, own, group=layer.ep_group)
        for expert, weight in enumerate(torch.cat(parts)):
            yield f"{name}.experts.{expert}.{long}.weight", weight
