"""Optimisation, precision and memory of a training run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from evolpo import InputError
from evolpo.model import resolve_precision
from evolpo.rl.schedule import SCHEDULES
from evolpo.rl.training.determinism import check_device

OFFLOADS = ("none", "rollout", "always")
"""Where optimizer states may be."""


@dataclass
class TrainerConfig:
    """Optimisation, precision and memory."""

    zero_stage: int = 1
    """ZeRO stage: 0 replicates all, 1 shards the optimizer, 2 also gradients, 3 also weights."""
    precision: str = "auto"
    """bf16 (with fp32 master weights), fp32, or auto: bf16 where the hardware multiplies it fast, else fp32."""
    fp8: bool = False
    """Compute the products of linear layers in FP8, forward and backward: on Hopper GPUs; emulated on CPUs."""
    learning_rate: float = 1e-6
    """Peak learning rate of AdamW."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises from zero."""
    schedule: str = "constant"
    """After the warmup: constant or cosine (to zero)."""
    weight_decay: float = 0.0
    """AdamW weight decay of matrices."""
    beta2: float = 0.95
    """AdamW second-moment decay; the first is 0.9."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this global norm."""
    expert_parallel: int = 1
    """Ranks that the experts of a layer are spread over, by DeepSpeed's AutoEP; 1: every rank has them all."""
    expert_bias_rate: float = 1e-3
    """Step of the experts' biases that evens out their load, in a model with experts; 0 leaves them."""
    tokens_per_micro_batch: int = 2048
    """Most tokens in one forward and backward pass of a device; a prompt counts once for its responses."""
    activation_checkpointing: bool | None = None
    """Recompute activations in the backward pass: less memory, a third more time; null: on GPUs."""
    offload: str = "none"
    """Optimizer states in the CPU's memory: none, rollout (while the engine samples), always."""
    deterministic: bool = False
    """On GPUs too one seed gives the same bits: slower kernels in trainer and engine. On CPUs it does anyway."""
    save_every: int = 10
    """Steps between checkpoints; the last step is always saved."""
    save_background: bool = False
    """Write checkpoints beside the next steps, from a copy of weights and optimizer states in the host's memory."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep; 0 keeps all."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        if self.zero_stage not in (0, 1, 2, 3):
            raise InputError(f"trainer.zero_stage: {self.zero_stage} is none of 0, 1, 2, 3")
        if self.offload not in OFFLOADS:
            raise InputError(f"trainer.offload: {self.offload!r} is none of {', '.join(OFFLOADS)}")
        if self.offload == "always" and self.zero_stage == 0:
            raise InputError("trainer.offload: always needs trainer.zero_stage 1, 2 or 3")
        if self.activation_checkpointing is None:
            self.activation_checkpointing = torch.cuda.is_available()
        self.precision = resolve_precision(self.precision, "trainer.precision")
        if self.schedule not in SCHEDULES:
            raise InputError(f"trainer.schedule: {self.schedule!r} is none of {', '.join(SCHEDULES)}")
        for name in ("learning_rate", "max_grad_norm", "tokens_per_micro_batch", "save_every"):
            if getattr(self, name) <= 0:
                raise InputError(f"trainer.{name}: {getattr(self, name)} is not positive")
        if not 0 <= self.beta2 < 1:
            raise InputError(f"trainer.beta2: {self.beta2} is no decay; give 0 to 0.999")
        if self.fp8 and torch.cuda.is_available() and torch.cuda.get_device_capability()[0] != 9:
            raise InputError(
                f"trainer.fp8: {torch.cuda.get_device_name()} is no Hopper GPU, which it is made for; false"
            )
        if self.deterministic:
            check_device(self.fp8)
        if self.expert_parallel > 1 and (self.zero_stage not in (1, 2) or self.fp8):
            raise InputError("trainer.expert_parallel: above 1 it needs trainer.zero_stage 1 or 2 and fp8=false")
        if self.expert_parallel < 1:
            raise InputError(f"trainer.expert_parallel: {self.expert_parallel} is not positive")
        for name in ("warmup_steps", "weight_decay", "expert_bias_rate", "keep_checkpoints"):
            if getattr(self, name) < 0:
                raise InputError(f"trainer.{name}: {getattr(self, name)} is negative")


def learning_rate(step: int, total: int, config: TrainerConfig) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    progress = (step - config.warmup_steps) / max(total - config.warmup_steps, 1)
    return config.learning_rate * SCHEDULES[config.schedule](min(progress, 1.0))
