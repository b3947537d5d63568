"""Starts vLLM for whatever samples: training, evaluation, ApexEval."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from evolpo.model.stored import parameters
from evolpo.recipes.runs.context import longest_tokens
from evolpo.recipes.runs.fleet import WIDTHS, start_fleet
from evolpo.recipes.runs.parallel import check_model, check_ranks
from evolpo.rollout.engine import RolloutConfig, RolloutEngine
from evolpo.rollout.prompts import DataConfig
from evolpo.rollout.sources import Note

logger = logging.getLogger(__name__)


def start_engine(
    model: str | Path,
    data: DataConfig,
    rollout: RolloutConfig,
    precision: str,
    seed: int,
    promised_bytes: int = 0,
    adapter_rank: int = 0,
    note: Note = logger.warning,
) -> RolloutEngine:
    """Start vLLM: a fleet where `rollout.fleet` says so, else an engine in this process, once in its life.

    Ranks, and a trainer beside it, call `init_distributed` before.

    Args:
        model: folder in Hugging Face layout.
        data: its longest prompt counts.
        rollout: memory, compilation and the longest response.
        precision: "bf16" or "fp32".
        seed: of sampling without a seed of its own.
        promised_bytes: what a trainer on the same GPU will hold beside what it holds now.
        adapter_rank: of the adapter that comes alone after each step; 0: all weights come.
        note: gets a line when an engine of a fleet dies or joins.

    Raises:
        InputError: the ranks, or the model, cannot be divided as `rollout.tensor_parallel` says, or there is no fleet.
    """
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    check_ranks(rollout.tensor_parallel, ranks)
    check_model(rollout.tensor_parallel, str(model))
    weights = parameters(Path(model)) * WIDTHS[precision] if Path(model).is_dir() else 0
    if rollout.fleet.engines:
        return start_fleet(str(model), data, rollout, precision, seed, weights, adapter_rank, note)
    from evolpo.rollout.vllm_engine import VllmEngine

    return VllmEngine(
        model,
        rollout,
        precision,
        longest_tokens(data, rollout),
        seed,
        weight_bytes=weights,
        promised_bytes=promised_bytes,
        adapter_rank=adapter_rank,
    )
