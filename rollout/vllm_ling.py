"""vLLM's own Ling 2.0 model, which here also takes checkpoints that hold multi-token prediction layers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor
from vllm.model_executor.models.bailing_moe import BailingMoeV2ForCausalLM

LAYER = re.compile(r"model\.layers\.(\d+)\.")


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
