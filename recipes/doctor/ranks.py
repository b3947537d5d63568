"""ZeRO 0 to 3 on all cards: the same updates in every stage, by processes that meet as in a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import torch

from evolpo.recipes.doctor.finding import BAD, GOOD, ISSUE, Finding, without_places

SECONDS = 150
"""For one stage."""
CLOSE = 2e-2
"""By which losses of two stages may differ, by their size, in bf16."""
MARK = "doctor: "
UPDATES = 3


def zero(stages: tuple[int, ...] = (0, 1, 2, 3), ranks: int = 0) -> Finding:
    """Losses and memory of three updates in each stage, on so many ranks; 0: one a card."""
    ranks = ranks or max(torch.cuda.device_count(), 1)
    made = {stage: _stage(stage, ranks) for stage in stages}
    failed = {stage: one["error"] for stage, one in made.items() if "error" in one}
    figures = {f"stage {stage}": one for stage, one in made.items()}
    if failed:
        stage, why = next(iter(failed.items()))
        return Finding(
            BAD,
            f"stage {stage} on {ranks} ranks: {why}",
            "it cannot be trained with",
            f"trainer.zero_stage={_other(failed)}",
            figures,
        )
    losses = [one["losses"] for one in made.values()]
    apart = max(abs(a - b) / max(abs(b), 1e-3) for row in losses for a, b in zip(row, losses[0], strict=True))
    peaks = ", ".join(f"{stage}: {one['peak_gb']:.2f}" for stage, one in made.items())
    found = f"{ranks} ranks, losses apart by {apart:.1e}, GB a card by stage {peaks}"
    if not apart < CLOSE:
        return Finding(BAD, found, "stages train different models", ISSUE, figures)
    return Finding(GOOD, found, figures=figures)


def _other(failed: dict[int, str]) -> int:
    return next((stage for stage in (1, 2, 0, 3) if stage not in failed), 1)


def _stage(stage: int, ranks: int) -> dict[str, Any]:
    """What rank 0 says, or an error."""
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}")
    command = [sys.executable, *launcher, "-m", "evolpo.recipes.doctor.ranks", str(stage)]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {SECONDS} s"}
    lines = [line for line in answer.stdout.splitlines() if line.startswith(MARK)]
    if answer.returncode or not lines:
        said = [line for line in answer.stderr.splitlines() if "Error" in line] or ["no word"]
        return {"error": without_places(said[-1])[:200]}
    result: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return result


def updates(stage: int) -> dict[str, Any]:
    """Losses and gradient norms of a few supervised updates of ling_nano, the most memory, and seconds."""
    from evolpo.model import ModelConfig, model_folder
    from evolpo.rl.data import Batch, Row
    from evolpo.rl.losses import LOSSES
    from evolpo.rl.trainer import Trainer
    from evolpo.rl.training.config import TrainerConfig

    trainer = Trainer(
        model_folder(ModelConfig("ling_nano")),
        TrainerConfig(zero_stage=stage, learning_rate=1e-4),
        total_updates=UPDATES,
    )
    losses, began = [], time.monotonic()
    for update in range(UPDATES):
        rows = tuple(
            Row(i // 4, tuple(range(3, 40)), tuple((i * 7 + j + update) % 400 + 5 for j in range(24)), tuple(range(24)),
                1.0 if i % 2 else -0.5, (-5.0,) * 24)
            for i in range(16)
        )  # fmt: skip
        metrics = trainer.update(Batch(rows), LOSSES["lpo"]).metrics
        losses += [metrics["loss"], metrics["grad_norm"]]
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"losses": losses, "peak_gb": peak / 1e9, "seconds": time.monotonic() - began, "rank": trainer.rank}


if __name__ == "__main__":
    made = updates(int(sys.argv[1]))
    if made["rank"] == 0:
        print(MARK + json.dumps(made), flush=True)
