"""Do rollout and trainer send the same tokens to the same experts? Where not, their log-probabilities part as well."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evolpo.rl.data import Row
from evolpo.rl.trainer import Trainer
from evolpo.rollout.engine import RolloutEngine

COMPARED = 4
"""Responses of a step whose routing is compared: each costs both sides one forward pass."""


def compare_routing(engine: RolloutEngine, trainer: Trainer, rows: Sequence[Row]) -> dict[str, float]:
    """Metrics of a few responses, while both sides hold the weights that sampled; none for a model without experts.

    Returns:
        `routing/same_tokens`: share of tokens with the same experts, a token counted once a layer;
        `routing/same_experts`: share of the chosen experts that both sides chose.
    """
    compared = rows[:: max(len(rows) // COMPARED, 1)][:COMPARED]
    ours = trainer.routing(compared)
    # Nothing is predicted from the last token. A rank without rows asks as well: it may share its engine with others.
    theirs = engine.routing([(row.prompt_ids + row.response_ids)[:-1] for row in compared])
    if not (ours and theirs):
        return {}
    tokens, experts = agreement(torch.cat([one[:-1] for one in ours]), torch.cat(theirs))
    return {"routing/same_tokens": tokens, "routing/same_experts": experts}


def agreement(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Share of equal sets of experts, and of experts in both: two choices [T, layers, k] in any order."""
    common = (first[..., :, None] == second[..., None, :]).any(dim=-1).sum(dim=-1)  # [T, layers]
    used = first.shape[-1]
    return float((common == used).float().mean()), float(common.float().mean() / used)
