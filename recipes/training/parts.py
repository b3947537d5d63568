"""The parts of a run, what is logged of them, and how they are saved."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolpo.recipes.config import TrainConfig
from evolpo.recipes.runs.stop import Stop, Terminated, leave
from evolpo.recipes.training.ahead import Ahead
from evolpo.rewards.stack import RewardStack
from evolpo.rl.curriculum import Curriculum
from evolpo.rl.data import Prompt
from evolpo.rl.logs.metrics import MetricsWriter
from evolpo.rl.logs.progress import Progress
from evolpo.rl.logs.samples import SampleTable
from evolpo.rl.saving import Saver
from evolpo.rl.trainer import Trainer
from evolpo.rollout.engine import RolloutEngine
from evolpo.rollout.prompts import PromptStream


@dataclass
class Parts:
    """Everything a run consists of."""

    config: TrainConfig
    run: Path
    start: int
    stream: PromptStream
    curriculum: Curriculum
    heldout: Sequence[Prompt]
    rewards: RewardStack
    trainer: Trainer
    engine: RolloutEngine
    progress: Progress
    saver: Saver
    writer: MetricsWriter | None
    """Of rank 0."""
    table: SampleTable
    began: float
    """Unix time at which the run began, less the time it lay interrupted."""
    stop: Stop
    """Hears SIGTERM."""
    ahead: Ahead | None = None
    """Groups on their way, of rank 0 of a run with a fleet."""
    pending: dict[str, float] | None = None
    """Metrics of a finished step that waits for its evaluation; None if there is none."""
    done: int = field(init=False)
    """The last finished step."""
    place: dict[str, Any] = field(init=False)
    """Where prompts and curriculum stood after it: the next step moves them before it is finished."""
    saved: int = field(init=False)
    """The step of the newest checkpoint, which may still be on its way to the disk."""

    def __post_init__(self) -> None:
        self.saved = self.start
        self.finish(self.start, self.pending)

    def finish(self, step: int, metrics: dict[str, float] | None) -> None:
        """Note that the weights are now those after a step, whose metrics may still lack an evaluation."""
        self.done, self.pending = step, metrics
        self.place = {"prompts": self.stream.state_dict(), "curriculum": self.curriculum.state_dict()}
        if self.ahead is not None:
            self.place["ahead"] = self.ahead.state_dict()


def log(parts: Parts, step: int, metrics: dict[str, float]) -> None:
    """Write and show the metrics of a finished step."""
    if parts.writer is not None:
        parts.writer.log(step, metrics)
    parts.progress.step(step, metrics)
    parts.pending = None


def save(parts: Parts) -> None:
    """Write the checkpoint of the last finished step, or begin to: model, optimizer, and all that the next depends on.

    What belongs to the step and stands elsewhere is written before: a run that dies in between drops it when it goes on
    from an older checkpoint, and does it again.
    """
    trainer = parts.trainer
    state = {
        "step": parts.done,
        "updates": trainer.updates,
        "seed": parts.config.seed,
        "world": trainer.world,
        "zero_stage": parts.config.trainer.zero_stage,
        **parts.place,
        "seconds": time.time() - parts.began,
    }
    if parts.pending is not None:
        state["pending"] = parts.pending
    if parts.writer is not None:
        state["metrics"] = parts.writer.written()

    if trainer.rank == 0:
        parts.table.save()
    parts.saver.save(parts.done, state)
    parts.saved = parts.done


@contextmanager
def saving_at_the_end(parts: Parts) -> Iterator[None]:
    """A block that SIGTERM ends: the last finished step is saved before the run leaves."""
    try:
        yield
    except Terminated:
        if parts.saved < parts.done:
            save(parts)
        parts.saver.wait()
        if parts.writer is not None:
            parts.writer.close()
        parts.progress.close()
        leave(parts.stop.message(parts.saved))  # what would be closed else waits for rewards that hang
