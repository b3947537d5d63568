"""New weights for the engine: all of them, or the adapters alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evolpo import InputError
from evolpo.model.lora import LoraConfig
from evolpo.model.shapes import EXPERTS
from evolpo.rl.trainer import Trainer
from evolpo.rollout.engine import ADAPTER_RANKS, RolloutEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adapter_rank(lora: LoraConfig | None, wanted: str, model: PreTrainedModel) -> tuple[int, str]:
    """Rank of the adapter that goes to the engine alone, 0 for whole weights; and the reason in words.

    vLLM's kernels for mixtures of experts with adapters do not run on a CPU. Its kernels for adapters there are plain
    PyTorch and make sampling five times as slow, so the default folds; see docs/lora.md.

    Args:
        lora: None without adapters.
        wanted: `rollout.lora_sync`.
        model: the trainer's.

    Raises:
        InputError: adapters alone are wanted where vLLM cannot take them.
    """
    if lora is None or lora.rank is None:
        return 0, "vLLM gets all weights after each step"
    hindrance = ""
    if any(getattr(model.config, name, 0) for name in EXPERTS):
        hindrance = "vLLM's kernels for experts cannot be trusted with adapters"
    elif lora.rank > ADAPTER_RANKS[-1]:
        hindrance = f"vLLM takes adapters up to rank {ADAPTER_RANKS[-1]}"
    if hindrance and wanted == "adapter":
        raise InputError(f"rollout.lora_sync: adapter cannot be: {hindrance}; give auto or folded")
    if hindrance or wanted == "folded" or (wanted == "auto" and not torch.cuda.is_available()):
        reason = hindrance or ("as rollout.lora_sync says" if wanted == "folded" else "the default on a CPU")
        return 0, f"vLLM gets the model with adapters folded in after each step: {reason}"
    return lora.rank, "vLLM gets the adapters alone after each step"


def sync(engine: RolloutEngine, trainer: Trainer, version: int) -> int:
    """Bring what is trained to the engine; every rank calls it.

    Returns:
        Bytes that this rank's engine was given.
    """
    if engine.takes_adapters:
        tensors, settings = trainer.adapter()
        engine.update_adapter(tensors, settings, version)
        return sum(tensor.nbytes for tensor in tensors.values())
    given = 0

    def counted() -> Iterator[tuple[str, Tensor]]:
        nonlocal given
        for name, tensor in trainer.named_weights():
            given += tensor.nbytes
            yield name, tensor

    engine.update_weights(counted(), version)
    return given
