"""Starts vLLM for whatever samples: training, evaluation, ApexEval."""

from __future__ import annotations

from pathlib import Path

from evolpo.recipes.runs.context import longest_tokens
from evolpo.rollout.engine import RolloutConfig, RolloutEngine
from evolpo.rollout.prompts import DataConfig


def start_engine(
    model: str | Path, data: DataConfig, rollout: RolloutConfig, precision: str, seed: int
) -> RolloutEngine:
    """Start vLLM; a process can do so once in its life. A trainer beside it calls `init_distributed` before.

    Args:
        model: folder in Hugging Face layout.
        data: its longest prompt counts.
        rollout: memory, compilation and the longest response.
        precision: "bf16" or "fp32".
        seed: of sampling without a seed of its own.
    """
    from evolpo.rollout.vllm_engine import VllmEngine

    return VllmEngine(model, rollout, precision, longest_tokens(data, rollout), seed)
