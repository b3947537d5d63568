"""Held-out accuracy during a run, and what it comes to at the end."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from evolpo.recipes.runs.evaluation import (
    Judged,
    evaluation_metrics,
    evaluation_sampling,
    judge,
    judged_file,
    paired_gain,
    read_judged,
    write_judged,
)
from evolpo.recipes.runs.seeds import draw_seed
from evolpo.recipes.training.parts import Parts
from evolpo.rl.logs.files import write_json


def evaluate_heldout(parts: Parts, step: int) -> dict[str, float]:
    """Judge the held-out problems, each rank its share, and keep the verdicts beside the run."""
    if not parts.heldout:
        return {}
    config, trainer = parts.config, parts.trainer
    parts.progress.phase("evaluating")
    sampling = evaluation_sampling(config.evaluation, config.rollout.max_response_tokens, config.rollout.temperature)
    share = parts.heldout[trainer.rank :: trainer.world]
    if config.rollout.fleet.engines:
        share = [] if trainer.rank else parts.heldout  # rank 0 has the fleet
    seed = draw_seed(config.seed, step, 1 << 20, trainer.rank)

    def work() -> list[Judged]:
        groups = parts.engine.generate(share, sampling, seed)
        parts.stop.apart()
        return judge(parts.rewards, groups, config.evaluation)

    judged = parts.stop.interruptible(work, together=config.rollout.tensor_parallel > 1)
    parts.stop.check(trainer)
    everything = [one for part in trainer.gather(judged) for one in part]
    if trainer.rank == 0:
        write_judged(judged_file(parts.run, step), everything)
    return evaluation_metrics(everything, config.evaluation)


def write_summary(parts: Parts) -> None:
    """Write `summary.json`: what the run was, and accuracy and tokens before and after."""
    config = parts.config
    summary: dict[str, Any] = {
        "name": config.name,
        "model": config.model.path or config.model.name,
        "algorithm": config.algorithm.name,
        "seed": config.seed,
        "steps": config.steps,
        "minutes": (time.time() - parts.began) / 60,
    }
    if parts.heldout:
        before, after = (read_judged(judged_file(parts.run, step)) for step in (0, config.steps))
        summary["problems"] = len(after)
    if parts.heldout and before and after:
        gain, interval = paired_gain(before, after)
        summary |= {
            "accuracy_before": float(np.mean([one.accuracy for one in before])),
            "accuracy_after": float(np.mean([one.accuracy for one in after])),
            "accuracy_gain": gain,
            "accuracy_gain_ci95": list(interval),
            "tokens_before": float(np.mean([one.tokens for one in before])),
            "tokens_after": float(np.mean([one.tokens for one in after])),
        }
    write_json(parts.run / "summary.json", summary)
