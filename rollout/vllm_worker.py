"""What runs inside vLLM's workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ADAPTER = 1
"""The number by which vLLM knows the one adapter."""


def register_ling() -> None:
    """Entry point of vLLM's plugins: serve models by our classes, and leave those of transformers as they are."""
    from vllm import ModelRegistry

    ModelRegistry.register_model("BailingMoeV2ForCausalLM", "evolpo.rollout.vllm_models:ServedLing")
    ModelRegistry.register_model("GptOssForCausalLM", "evolpo.rollout.vllm_models:ServedGptOss")
    keep_transformers_classes()


def keep_transformers_classes() -> None:
    """Let vLLM run models by transformers' classes without changing these.

    Where it has no class of its own (OLMo 2, SmolLM3) vLLM makes the class of transformers compilable, for the whole
    process: the trainer's model, made from the same class before, would fail at its next call, and a later one would
    compile itself. Such models are therefore not compiled, whatever `rollout.compile` says.
    """
    from vllm.model_executor.models.transformers.base import Base

    Base._decorate_for_torch_compile = lambda self: None


def completed(config: Any) -> Any:
    """A model's configuration with what vLLM needs and transformers does not write.

    In DeepSeek-V3's, transformers knows only one way of choosing experts, and leaves the fields out that name it.
    """
    if config.model_type == "deepseek_v3":
        config.topk_method = getattr(config, "topk_method", None) or "noaux_tc"
        config.scoring_func = getattr(config, "scoring_func", None) or "sigmoid"
    return config


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


def take_adapter(worker: Any, tensors: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Put an adapter into a worker in the place of the one before, from memory.

    vLLM itself loads adapters from folders alone; this is what it does with one after reading it.

    Returns:
        Layers of the adapter that the worker's model does not have; then nothing is changed.
    """
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    loader = worker.model_runner.lora_manager
    manager = loader._adapter_manager
    mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
    adapter = LoRAModel.from_lora_tensors(
        ADAPTER,
        dict(tensors),
        PEFTHelper.from_dict(dict(settings)),
        device="cpu",
        dtype=loader.lora_config.lora_dtype,
        weights_mapper=mapper.get_rename_mapper() if mapper is not None else None,
    )
    known = {*manager.modules, *(part for parts in manager.packed_modules.values() for part in parts)}
    if unknown := sorted(set(adapter.loras) - known):
        return unknown
    manager.remove_adapter(ADAPTER)
    manager.add_adapter(adapter)
    manager.activate_adapter(ADAPTER)
    return []
