"""A tiny model sampled by vLLM, trained for a step and sampled again: the whole loop, in a process of its own.

vLLM lives once in the life of a process, and takes it along where it crashes. The parent reads the last line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from evolpo.recipes.doctor.finding import BAD, CARE, GOOD, ISSUE, Finding, without_places

if TYPE_CHECKING:
    from evolpo.rl.data import Group, Row

SECONDS = 240
"""After which the process is ended."""
GAPS = {"fp32": 1e-3, "bf16": 0.1}
"""Nats by which engine and trainer may differ on the average of sampled tokens."""
MARK = "doctor: "


@dataclass(frozen=True)
class Loop:
    """What came of it."""

    precision: str
    start_s: float
    """To import, load and start."""
    tokens_per_s: float
    gap_before: float
    """Mean distance of log-probabilities of engine and trainer, in nats."""
    gap_after: float
    """The same after a training step, (on a card) a sleep, and a weight update."""
    moved: float
    """How far the training step moved log-probabilities, in nats: if not at all, an update proves nothing."""
    peak_gb: float
    """Memory of the process, or of the card where there is one."""


def loop(model: str = "ling_nano", groups: int = 4, tokens: int = 48) -> Finding:
    """Sample, train, update, sample; on a card with a sleep between.

    Args:
        model: name of one that comes with evolpo.
        groups: prompts with four responses each.
        tokens: of a response, at most.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "evolpo.recipes.doctor.tiny", model, str(groups), str(tokens)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return Finding(
            BAD,
            f"not done within {SECONDS} s",
            "training will hang or crawl",
            "see processor and memory above",
        )
    lines = [line for line in answer.stdout.splitlines() if line.startswith(MARK)]
    if answer.returncode or not lines:
        said = [line for line in answer.stderr.splitlines() if line.strip()] or ["nothing"]
        todo = f"{sys.executable.rpartition('/')[2]} -m evolpo.recipes.doctor.tiny {model} {groups} {tokens} shows all"
        return Finding(
            BAD, without_places(f"exit code {answer.returncode}: {said[-1]}"[:300]), "nothing can be trained", todo
        )
    return judged(Loop(**json.loads(lines[-1].removeprefix(MARK))))


def judged(made: Loop) -> Finding:
    """The verdict on what came of it."""
    found = (
        f"{made.precision}: ready in {made.start_s:.0f} s, {made.tokens_per_s:.0f} tokens/s, gap of engine and trainer "
        f"{made.gap_before:.1g} and after a step {made.gap_after:.1g} nats, {made.peak_gb:.1f} GB"
    )
    figures = asdict(made)
    most = GAPS[made.precision]
    if not made.gap_before < most:
        return Finding(BAD, found, "engine and trainer compute different models", ISSUE, figures)
    # An engine with the old weights lies as far away as the step moved; sharper distributions round more coarsely.
    if not made.gap_after < max(most, made.moved / 5):
        return Finding(BAD, found, "the engine does not take new weights", ISSUE, figures)
    if not made.moved > 0:
        return Finding(CARE, found, "the training step moved nothing", ISSUE, figures)
    return Finding(GOOD, found, "sampling, training and weight updates work together", figures=figures)


def run_loop(model: str, count: int, tokens: int) -> Loop:
    """Do it, in the precision that `auto` takes; the arguments are those of `loop`."""
    import psutil
    import torch

    from evolpo.model import ModelConfig, model_folder, resolve_precision
    from evolpo.rl.data import Batch, Prompt
    from evolpo.rl.losses import LOSSES
    from evolpo.rl.trainer import Trainer
    from evolpo.rl.training.config import TrainerConfig
    from evolpo.rl.training.distributed import init_distributed
    from evolpo.rollout.engine import RolloutConfig, Sampling
    from evolpo.rollout.vllm_engine import VllmEngine

    began = time.monotonic()
    init_distributed()
    folder = model_folder(ModelConfig(model))
    precision = resolve_precision("auto", "precision")
    trainer = Trainer(folder, TrainerConfig(precision=precision, learning_rate=1e-3), total_updates=4)
    engine = VllmEngine(folder, RolloutConfig(kv_cache_gb=0.25), precision, tokens + 128)
    engine.update_weights(trainer.named_weights(), version=0)
    ready = time.monotonic() - began
    ids = trainer.tokenizer("What is 12 + 34 - 5?", add_special_tokens=False)["input_ids"]
    prompts = [Prompt(str(i), "", (*ids, *ids[: 1 + i % len(ids)])) for i in range(count)]
    sampling = Sampling(4, tokens)

    def sample(seed: int) -> tuple[float, list[float], float]:
        start = time.monotonic()
        groups = engine.generate(prompts, sampling, seed)
        tokens = sum(len(r.token_ids) for g in groups for r in g.responses)
        speed = tokens / (time.monotonic() - start)
        rows = rows_of(groups)
        ours = trainer.logprobs(rows)
        gaps = [abs(a - b) for i, row in enumerate(rows) for a, b in zip(ours[i], row.rollout_logprobs, strict=True)]
        return sum(gaps) / len(gaps), [x for i in range(len(rows)) for x in ours[i]], speed

    before, old, speed = sample(1)
    batch_rows = rows_of(engine.generate(prompts, sampling, 1))
    engine.sleep()
    trainer.update(Batch(batch_rows), LOSSES["lpo"])
    moved_rows = trainer.logprobs(batch_rows)
    moved = [abs(a - b) for a, b in zip(old, (x for i in range(len(batch_rows)) for x in moved_rows[i]), strict=True)]
    engine.update_weights(trainer.named_weights(), version=1)
    after, *_ = sample(2)
    on_card = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_card else psutil.Process().memory_info().rss
    return Loop(precision, ready, speed, before, after, sum(moved) / len(moved), peak / 1e9)


def rows_of(groups: Sequence[Group]) -> tuple[Row, ...]:
    """Rows of sampled groups; every second response is rewarded."""
    from evolpo.rl.data import Row

    return tuple(
        Row(i, g.prompt.token_ids, r.token_ids, (0,) * len(r.token_ids), 1.0 if j % 2 else -1.0, r.logprobs)
        for i, g in enumerate(groups)
        for j, r in enumerate(g.responses)
    )


if __name__ == "__main__":
    print(MARK + json.dumps(asdict(run_loop(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
