"""What runs inside vLLM's workers."""

from __future__ import annotations

from typing import Any


def register_ling() -> None:
    """Entry point of vLLM's plugins: serve Ling 2.0 checkpoints whether or not they hold MTP layers."""
    from vllm import ModelRegistry

    ModelRegistry.register_model("BailingMoeV2ForCausalLM", "evolpo.rollout.vllm_ling:ServedLing")


def repack_tied_head(model: Any) -> None:
    """Bring an LM head that shares the embedding's weight up to date after the weights were reloaded.

    On a CPU vLLM keeps a packed copy of every matrix for its kernels. Reloading packs the embedding anew, but not the
    head that is tied to it, which would go on answering with the weights of the start.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    heads = [module for module in model.modules() if isinstance(module, ParallelLMHead)]
    weights = {id(m.weight) for m in model.modules() if hasattr(m, "weight") and not isinstance(m, ParallelLMHead)}
    for head in heads:
        if id(head.weight) in weights:
            head.quant_method.process_weights_after_loading(head)


def repack_experts(model: Any) -> None:
    """Bring stacked experts into the order of the CPU's kernel after the weights were reloaded.

    vLLM does so when it builds the kernel and not again when weights are reloaded: the kernel would take the new
    weights in the wrong order.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for module in model.modules():
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            kernel.fused_experts.process_weights_after_loading(module)


def expert_routers(model: Any) -> list[Any]:
    """The modules that choose experts, in the order of the layers; none in a dense model."""
    from vllm.model_executor.layers.fused_moe.layer import MoERunner
    from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter

    runners = [module for module in model.modules() if isinstance(module, MoERunner)]
    return [runner.router for runner in runners if isinstance(runner.router, BaseRouter)]
