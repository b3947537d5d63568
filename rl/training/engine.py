"""The DeepSpeed engine around a policy: its configuration, AdamW, and what has to be mended of both."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from evolpo.model.experts import routers
from evolpo.rl.training.buckets import Buckets
from evolpo.rl.training.config import TrainerConfig
from evolpo.rl.training.expert_parallel import prepare
from evolpo.rl.training.sharded import whole_shape


def build_engine(policy: nn.Module, config: TrainerConfig, world: int) -> tuple[Any, Any]:
    """The DeepSpeed engine of a policy and its optimizer; torch.distributed runs already.

    Args:
        policy: in the precision of training; frozen parameters get no optimizer state.
        config: optimisation, precision and memory.
        world: number of ranks.
    """
    import deepspeed

    if config.zero_stage == 3:
        _gather_experts_together(policy)
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


def frozen_engine(policy: nn.Module, config: TrainerConfig) -> nn.Module:
    """An engine that gathers the layers of a policy that came in shards, for passes without gradients alone.

    Args:
        policy: none of its parameters needs a gradient.
        config: of the policy that is trained; ZeRO stage 3.
    """
    import deepspeed

    _gather_experts_together(policy)
    engine: nn.Module = deepspeed.initialize(model=policy, config=_common(policy, config))[0]
    return engine


def _gather_experts_together(policy: nn.Module) -> None:
    """In ZeRO stage 3, all experts of a layer at once, whichever are used."""
    import deepspeed

    if routers(policy):
        from evolpo.model.ling import SparseMLP

        deepspeed.utils.set_z3_leaf_modules(policy, [SparseMLP])


def _parameter_groups(policy: nn.Module, config: TrainerConfig) -> list[dict[str, Any]]:
    parameters = [p for p in policy.parameters() if p.requires_grad]
    groups = [
        {
            "name": "matrices",
            "params": [p for p in parameters if len(whole_shape(p)) >= 2],
            "weight_decay": config.weight_decay,
        },
        {"name": "vectors", "params": [p for p in parameters if len(whole_shape(p)) < 2], "weight_decay": 0.0},
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
    settings = _common(policy, config) | experts | accumulation | {"gradient_clipping": config.max_grad_norm}
    settings["zero_optimization"] |= _offload(config)
    return settings


def _common(policy: Any, config: TrainerConfig) -> dict[str, Any]:
    """What engines that train and those that do not have in common."""
    total = sum(math.prod(whole_shape(parameter)) for parameter in policy.parameters())
    buckets = Buckets.of(policy.model.config.hidden_size, total).settings()
    return {
        "train_micro_batch_size_per_gpu": 1,
        "managed_gradient_accumulation": False,  # micro-batches vary in number; step() is the boundary
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False} | buckets,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 60,
    }


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
