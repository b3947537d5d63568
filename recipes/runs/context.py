"""Prompt and response must fit into the model's context."""

from __future__ import annotations

from pathlib import Path

from evolpo import InputError
from evolpo.model.files import read_object
from evolpo.model.stored import parameters
from evolpo.rollout.engine import RolloutConfig
from evolpo.rollout.prompts import DataConfig

LEAST_BYTES = 1024
"""Memory that a response takes at least, with its tokens, log-probabilities and text."""
LARGEST_FACTOR = 1e6
"""No context is stretched further."""
STRETCHED = ("linear", "dynamic")
"""Kinds of rotary scaling that multiply the context; others, such as yarn, have it in `max_position_embeddings`."""


def context_tokens(model: str) -> int | None:
    """Tokens of the longest prompt with its response, by the `config.json` of a model; None where it does not say.

    Args:
        model: folder in Hugging Face layout, or hub name: of a model that is not on disk nothing is known.
    """
    file = Path(model) / "config.json"
    if not file.is_file():
        return None
    config = read_object(file)
    tokens = config.get("max_position_embeddings")
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if tokens is None or not isinstance(scaling, dict):
        return None
    factor = scaling.get("factor") or 1 if scaling.get("rope_type", scaling.get("type")) in STRETCHED else 1
    if not isinstance(tokens, int) or not isinstance(factor, int | float) or not 0 < factor <= LARGEST_FACTOR:
        raise InputError(f"model.path: {file}: max_position_embeddings={tokens!r} times {factor!r} is no context")
    return int(tokens * factor)


def longest_tokens(data: DataConfig, rollout: RolloutConfig) -> int:
    """Tokens of the longest prompt with the longest response."""
    return data.max_prompt_tokens + rollout.max_response_tokens


def check_context(model: str, data: DataConfig, rollout: RolloutConfig) -> None:
    """Raise InputError if the longest prompt and the longest response together exceed the model's context."""
    context = context_tokens(model)
    longest = longest_tokens(data, rollout)
    if context is not None and longest > context:
        raise InputError(
            f"rollout.max_response_tokens: {rollout.max_response_tokens} and data.max_prompt_tokens="
            f"{data.max_prompt_tokens} are {longest} tokens, more than the {context} of the context of {model}; "
            f"lower one of the two"
        )


def check_model_memory(
    model: str, precision: str, training: bool, processes: int = 1, adapters: bool = False, engine_ranks: int = 1
) -> None:
    """Raise InputError if a model is more than the free memory holds, at the least; of the hub nothing is known.

    The least is what no setting avoids: the engine's weights; and for training the trainer's, their fp32 copies and two
    moments of Adam, over all processes of this machine. Activations and the engine's cache come on top.

    Args:
        model: folder in Hugging Face layout, or hub name.
        precision: of the weights, bf16 or fp32.
        training: whether a trainer holds the model too.
        processes: that hold it on this machine.
        adapters: whether they alone are trained: of the model there are the trainer's weights then, and no more.
        engine_ranks: processes that share an engine, each with a part of its weights.
    """
    import psutil
    import torch

    if not Path(model).is_dir():
        return
    count = parameters(Path(model))
    width = 2 if precision == "bf16" else 4
    states = 0 if adapters else 12 if width == 2 else 8
    share = width * processes + states if training else 0
    if torch.cuda.is_available():
        needed = count * max(width / engine_ranks, share / processes)
        free: float = torch.cuda.get_device_properties(0).total_memory
        where = "of the device"
    else:
        needed, free = count * (width * processes / engine_ranks + share), psutil.virtual_memory().available
        where = "that are free"
    if needed > free:
        raise InputError(
            f"model.path: {model} has {count:.3g} parameters; {'training' if training else 'sampling'} takes at least "
            f"{needed / (1 << 30):.3g} GiB, more than the {free / (1 << 30):.3g} {where}; take a smaller model"
        )


def check_memory(rollout: RolloutConfig, responses: int) -> None:
    """Raise InputError if the engine's cache, or the responses of a step alone, are more than this machine's memory.

    Args:
        rollout: has the size of the cache.
        responses: of a step.
    """
    import psutil
    import torch

    total = psutil.virtual_memory().total
    device = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else total
    if rollout.kv_cache_gb * (1 << 30) > device:
        raise InputError(
            f"rollout.kv_cache_gb: {rollout.kv_cache_gb:g} GiB are more than the {device / (1 << 30):.0f} of the device"
        )
    if responses * LEAST_BYTES > total:
        raise InputError(
            f"prompts_per_step: times responses_per_prompt that are {responses} responses a step, more than fit into "
            f"memory; lower one of the two"
        )
