"""Does the engine hold the trainer's weights? Looked at once after it has slept, when every weight had to come anew."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evolpo import InputError
from evolpo.rl.data import Prompt, Row
from evolpo.rl.trainer import Trainer
from evolpo.rollout.engine import RolloutEngine, Sampling

LARGEST_GAP = {"bf16": 0.2, "fp32": 0.01}
"""Median distance of log-probabilities, nats, by precision. Of sound weights it is some thousandths in bf16, 1e-6 in
fp32; a weight that was left out makes it several nats."""


def check_agreement(engine: RolloutEngine, trainer: Trainer, rows: Sequence[Row], seed: int) -> None:
    """Sample a few tokens and compare log-probabilities; every rank calls it.

    Raises:
        InputError: they differ; the weights that the engine has after its sleep are not those of the trainer.
    """
    prompts = [Prompt(str(i), "", row.prompt_ids) for i, row in enumerate(rows[:2])]
    groups = engine.generate(prompts, Sampling(2, 8, temperature=trainer.policy.temperature), seed)
    sampled = [
        Row(place, group.prompt.token_ids, one.token_ids, (0,) * len(one.token_ids), 1.0, one.logprobs)
        for place, group in enumerate(groups)
        for one in group.responses
    ]
    ours = trainer.logprobs(sampled)
    gaps = [abs(a - b) for i, row in enumerate(sampled) for a, b in zip(ours[i], row.rollout_logprobs, strict=True)]
    median = float(torch.tensor(gaps).median()) if gaps else 0.0
    worst = trainer.max_over_ranks(median if median == median else float("inf"))
    if worst > LARGEST_GAP[trainer.config.precision]:
        raise InputError(
            f"rollout.sleep_level: after its first sleep the engine's log-probabilities differ from the trainer's by "
            f"{worst:.3g} nats (median of {len(gaps)} tokens): it does not have all weights; take rollout.sleep_level=1"
        )
