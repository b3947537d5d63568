"""The DeepSpeed engine around a policy: its configuration, AdamW, and what has to be mended of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from evolpo.model.experts import routers
from evolpo.rl.training.config import TrainerConfig
from evolpo.rl.training.expert_parallel import prepare


def build_engine(policy: nn.Module, config: TrainerConfig, world: int) -> tuple[Any, Any]:
    """The DeepSpeed engine of a policy and its optimizer; torch.distributed runs already.

    Args:
        policy: in the precision of training; frozen parameters get no optimizer state.
        config: optimisation, precision and memory.
        world: number of ranks.
    """
    import deepspeed

    if config.zero_stage == 3 and routers(policy):
        from evolpo.model.ling import SparseMLP

        deepspeed.utils.set_z3_leaf_modules(policy, [SparseMLP])  # all experts at once, whichever are used
    engine, optimizer, _, _ = deepspeed.initialize(
        model=policy,
        model_parameters=_parameter_groups(policy, config),
        optimizer=lambda groups: _adam(groups, config),
        config=_deepspeed_config(policy, config, world),
    )
    # With bf16 and stage 0 DeepSpeed makes an empty step at start-up, which Adam's bias correction would count.
    getattr(optimizer, "optimizer", optimizer).state.clear()
    engine.clip_fp32_gradients = lambda: _clip_fp32_gradients(engine, policy, config.max_grad_norm)
    return engine, optimizer


def _parameter_groups(policy: nn.Module, config: TrainerConfig) -> list[dict[str, Any]]:
    parameters = [p for p in policy.parameters() if p.requires_grad]

    def dimensions(parameter: Any) -> int:
        return len(getattr(parameter, "ds_shape", parameter.shape))  # of what is sharded a rank has a flat share

    groups = [
        {
            "name": "matrices",
            "params": [p for p in parameters if dimensions(p) >= 2],
            "weight_decay": config.weight_decay,
        },
        {"name": "vectors", "params": [p for p in parameters if dimensions(p) < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]  # adapters have no vectors


def _adam(groups: list[dict[str, Any]], config: TrainerConfig) -> torch.optim.AdamW:
    if config.expert_parallel > 1:
        from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer

        groups = split_params_into_different_moe_groups_for_optimizer(groups)
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, config.beta2), fused=True)


def _deepspeed_config(policy: nn.Module, config: TrainerConfig, world: int) -> dict[str, Any]:
    spread = config.expert_parallel
    experts = {"expert_parallel": prepare(policy, spread, world)} if spread > 1 else {}
    exact = config.precision == "bf16" and config.zero_stage > 0  # DeepSpeed has nothing for stage 0
    accumulation = {"data_types": {"grad_accum_dtype": "fp32"}} if exact else {}
    return (
        experts
        | accumulation
        | {
            "train_micro_batch_size_per_gpu": 1,
            "managed_gradient_accumulation": False,  # micro-batches vary in number; step() is the boundary
            "gradient_clipping": config.max_grad_norm,
            "bf16": {"enabled": config.precision == "bf16"},
            "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False} | _offload(config),
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 1 << 60,
        }
    )


def _offload(config: TrainerConfig) -> dict[str, Any]:
    if config.offload != "always":
        return {}
    return {"offload_optimizer": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}


def _clip_fp32_gradients(engine: Any, policy: nn.Module, max_norm: float) -> None:
    """Clip under fp32 and stage 0, where DeepSpeed's own method would drop the norm."""
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm)
    if not norm.isfinite():  # what DeepSpeed does in every other stage: no gradient, no step
        for parameter in policy.parameters():
            parameter.grad = None
    engine._global_grad_norm = float(norm)
