"""Whether a training run fits into the memory that is there, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from evolpo import InputError
from evolpo.recipes.memory.mends import FIELDS, smallest_change
from evolpo.recipes.memory.needs import WEIGHT, Setting, Work, cached_share, card_needs, copied, shared_memory
from evolpo.recipes.memory.passes import passes_of
from evolpo.recipes.memory.sizes import sizes_of
from evolpo.rollout.card import CPU_CACHE_GB, GIB

if TYPE_CHECKING:
    from evolpo.recipes.config import TrainConfig

SURE = 0.9
"""What is refused needs more than is there even at this share of the estimate."""


@dataclass(frozen=True)
class Memory:
    """What there is."""

    size: float
    """Bytes."""
    cards: bool
    """Whether it is that of each card; else that of the machine, for all ranks."""
    machine: float = float("inf")
    """Bytes that are free of the machine beside cards."""

    @classmethod
    def here(cls) -> Memory:
        """Of the first card, or what is free of the machine."""
        free = float(psutil.virtual_memory().available)
        if torch.cuda.is_available():
            return cls(float(torch.cuda.get_device_properties(0).total_memory), True, free)
        return cls(free, False)


def check_training_memory(model: str, config: TrainConfig, ranks: int, memory: Memory | None = None) -> None:
    """Raise InputError if training takes more memory than there is, with the smallest change that fits.

    Nothing is known of a model on the hub, nor of ranks on other machines.

    Args:
        model: folder in Hugging Face layout, or hub name.
        config: of the run.
        ranks: in all.
        memory: what there is; None looks.
    """
    from transformers import AutoConfig

    from evolpo.model.config import register

    if not Path(model).is_dir():
        return
    register()
    architecture = AutoConfig.from_pretrained(model, trust_remote_code=False)
    memory = memory or Memory.here()
    sizes, bytes_of = sizes_of(architecture), passes_of(architecture)
    setting = setting_of(config, ranks)
    if memory.cards:
        _check_copy(copied(sizes, setting), memory.machine)
    if sizes.total * setting.work.tokens * 4 < memory.size / 4:
        return  # a token keeps fewer numbers than the model has parameters: no need to trace a pass
    longest = setting.work.prompt_tokens + setting.work.response_tokens
    least_cache = longest * cached_share(sizes, setting) * WEIGHT[setting.precision]
    wanted = config.rollout.kv_cache_gb or (0.0 if memory.cards else CPU_CACHE_GB)
    cache = max(wanted * GIB, least_cache)

    def parts(one: Setting) -> Mapping[str, float]:
        if not memory.cards:
            return shared_memory(sizes, one, bytes_of(one), cache)
        needs = card_needs(sizes, one, bytes_of(one))
        rollout = needs.rollout | {"key-value cache": cache}
        return max(rollout, needs.training, key=lambda phase: sum(phase.values()))

    def fits(one: Setting, share: float = 1.0) -> bool:
        return share * sum(parts(one).values()) <= memory.size

    if not fits(setting, SURE):
        raise InputError(_message(model, parts(setting), memory, _change(setting, fits, longest, config, memory)))


def _check_copy(size: float, free: float) -> None:
    """Raise InputError if the copy that a checkpoint is written from has no room beside the cards."""
    if SURE * size > free:
        raise InputError(
            f"trainer.save_background: the copy that a checkpoint is written from takes {size / GIB:.1f} GiB of the "
            f"machine's memory, of which {free / GIB:.1f} are free; set it to false"
        )


def setting_of(config: TrainConfig, ranks: int) -> Setting:
    """What of a run's configuration decides about memory."""
    trainer = config.trainer
    return Setting(
        ranks=ranks,
        work=Work(
            config.data.max_prompt_tokens,
            config.rollout.max_response_tokens,
            config.responses_per_prompt,
            trainer.tokens_per_micro_batch,
        ),
        precision=trainer.precision,
        zero_stage=trainer.zero_stage,
        checkpointing=bool(trainer.activation_checkpointing),
        offload=trainer.offload,
        background=trainer.save_background,
        expert_parallel=trainer.expert_parallel,
        tensor_parallel=config.rollout.tensor_parallel,
        reference=config.algorithm.kl_coef != 0.0,
        lora_rank=config.model.lora.rank or 0,
    )


def _change(
    setting: Setting, fits: Callable[[Setting], bool], longest: int, config: TrainConfig, memory: Memory
) -> str:
    """The smallest change by fields that the configuration has, as overrides; empty if there is none."""
    offered = FIELDS & {field.name for field in fields(config.trainer)}
    offered -= set() if memory.cards else {"offload"}
    offered -= set() if setting.ranks > 1 else {"zero_stage"}
    change = smallest_change(setting, fits, longest, offered)
    return " ".join(f"trainer.{words}" for words in change or ())


def _message(model: str, parts: Mapping[str, float], memory: Memory, change: str) -> str:
    listed = ", ".join(f"{name} {value / GIB:.1f}" for name, value in parts.items())
    where = "of a card" if memory.cards else "that are free"
    mend = f"the smallest change that fits: {change}" if change else "no setting of the trainer lets it fit"
    return (
        f"model.path: training {model} takes about {sum(parts.values()) / GIB:.1f} GiB ({listed}), more than the "
        f"{memory.size / GIB:.1f} {where}; {mend}"
    )
