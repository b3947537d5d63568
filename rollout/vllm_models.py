"""vLLM's own classes of models where ours differ: what they take from a checkpoint, and how they take new weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torch import Tensor
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.model_executor.models.bailing_moe import BailingMoeV2ForCausalLM
from vllm.model_executor.models.gpt_oss import GptOssForCausalLM

LAYER = re.compile(r"model\.layers\.(\d+)\.")
STACKED = re.compile(r"(.*\.mlp\.experts)\.((?:gate_up|down)_proj(?:_bias)?)")
"""Tensors of gpt-oss that hold the same of all experts of a layer."""


class ServedLing(BailingMoeV2ForCausalLM):  # type: ignore[misc]
    """Leaves MTP layers, the last in `model.layers`, out of what is served."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load all but the MTP layers; returns the names that were loaded."""
        layers = self.config.num_hidden_layers

        def is_served(name: str) -> bool:
            layer = LAYER.match(name)
            return layer is None or int(layer[1]) < layers

        loaded: set[str] = super().load_weights((name, tensor) for name, tensor in weights if is_served(name))
        return loaded


class ServedGptOss(GptOssForCausalLM):  # type: ignore[misc]
    """Takes new experts and sinks.

    vLLM writes both straight into the parameters. While weights are reloaded these are on the meta device and only
    their loaders reach what is served, so that the old weights would stay. Experts that come one by one go by the
    loader, and sinks are taken to it here.
    """

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load all weights; returns the names that were loaded."""
        parameters = dict(self.named_parameters())
        sinks: set[str] = set()

        def others() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                stacked = STACKED.fullmatch(name)
                if stacked:
                    yield from ((f"{stacked[1]}.{i}.{stacked[2]}", one) for i, one in enumerate(tensor))
                elif name.endswith(".sinks"):
                    own = name.replace(".self_attn.", ".attn.")
                    load = getattr(parameters[own], "weight_loader", default_weight_loader)
                    load(parameters[own], tensor)
                    sinks.add(own)
                else:
                    yield name, tensor

        loaded: set[str] = super().load_weights(others())
        return loaded | sinks
