"""The parts of a run, put together from the start or from a checkpoint, and saved again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolpo.model import model_folder
from evolpo.recipes.config import TrainConfig
from evolpo.recipes.runs.context import check_context, check_memory
from evolpo.recipes.runs.engine import start_engine
from evolpo.recipes.runs.evaluation import check_component
from evolpo.recipes.runs.fit import check_levels, check_rewards
from evolpo.recipes.runs.folder import new_run_folder, write_config, write_start
from evolpo.recipes.runs.lock import locked
from evolpo.recipes.runs.resume import resume_point
from evolpo.recipes.runs.stop import Stop, Terminated, leave
from evolpo.rewards.stack import RewardStack
from evolpo.rl.checkpoint import read_state, set_later_aside, write_checkpoint
from evolpo.rl.curriculum import Curriculum
from evolpo.rl.data import Prompt
from evolpo.rl.metrics import MetricsWriter, Progress, SampleTable
from evolpo.rl.trainer import Trainer
from evolpo.rl.training.distributed import from_rank_0, init_distributed
from evolpo.rollout.engine import RolloutEngine
from evolpo.rollout.prompts import PromptStream, encode_problems, split_heldout


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
    writer: MetricsWriter | None
    """Of rank 0."""
    table: SampleTable
    began: float
    """Unix time at which the run began, less the time it lay interrupted."""
    stop: Stop
    """Hears SIGTERM."""
    pending: dict[str, float] | None = None
    """Metrics of a finished step that waits for its evaluation; None if there is none."""
    done: int = field(init=False)
    """The last finished step."""
    place: dict[str, Any] = field(init=False)
    """Where prompts and curriculum stood after it: the next step moves them before it is finished."""
    saved: int = field(init=False)
    """The step of the newest checkpoint."""

    def __post_init__(self) -> None:
        self.saved = self.start
        self.finish(self.start, self.pending)

    def finish(self, step: int, metrics: dict[str, float] | None) -> None:
        """Note that the weights are now those after a step, whose metrics may still lack an evaluation."""
        self.done, self.pending = step, metrics
        self.place = {"prompts": self.stream.state_dict(), "curriculum": self.curriculum.state_dict()}


def assemble(
    config: TrainConfig, stack: ExitStack, engine: RolloutEngine | None, run: Path | None, stop: Stop
) -> Parts:
    """Load data, rewards, trainer and, if there is none yet, engine, from the start or from a checkpoint.

    Args:
        config: all that decides the result.
        stack: closes what must be closed.
        engine: a running engine of the same model and lengths; None starts one.
        run: the folder of a new run; None makes one.
        stop: hears SIGTERM.
    """
    began = time.time()
    progress = stack.enter_context(Progress(config.steps, config.logger, int(os.environ.get("RANK", "0"))))
    progress.note("loading data and rewards")
    train_problems, heldout_problems = split_heldout(config.data, config.seed, progress.note)
    check_levels(config.curriculum, train_problems, config.rollout.max_response_tokens, config.steps)
    rewards = RewardStack(config.rewards)
    stack.callback(rewards.close)
    check_component(config.evaluation, rewards.names)
    check_rewards(rewards, config.data, train_problems, heldout_problems)
    for warning in config.warnings():
        progress.note(f"warning: {warning}")

    rank, world = init_distributed()
    config.check_ranks(world)
    state: Mapping[str, Any] = {}
    checkpoint: Path | None = None
    if config.resume:
        run, checkpoint = resume_point(config.resume)
    # Without a penalty nobody asks any more for the model that the run began with.
    base = model_folder(config.model) if not checkpoint or config.algorithm.kl_coef else str(checkpoint)
    check_context(base, config.data, config.rollout)
    check_memory(config.rollout, config.prompts_per_step * config.responses_per_prompt)
    run = run or Path(from_rank_0(str(new_run_folder(config.output_dir, config.name)) if rank == 0 else ""))
    stop.run = run
    rewards.unscored.file = run / ("unscored.jsonl" if rank == 0 else f"unscored_rank{rank}.jsonl")
    if rank == 0:
        stack.enter_context(locked(run))
        write_config(run, config)
        if not config.resume:
            write_start(run)
    if checkpoint:
        state = read_state(checkpoint)
        began -= state["seconds"]
        for folder in set_later_aside(run, state["step"]) if rank == 0 else []:
            progress.note(f"{folder.name}: its step is done again")
    start = state.get("step", 0)
    model = str(checkpoint or base)
    progress.note(f"run {run}")
    progress.note(config.describe_batch(world))

    progress.note(f"loading the model from {model}")
    trainer = Trainer(
        model,
        config.trainer,
        total_updates=config.steps * config.algorithm.optimizer_steps,
        temperature=config.rollout.temperature,
        options=config.algorithm.loss_options(),
        reference_path=base,
    )
    stream = PromptStream(train_problems, trainer.tokenizer, config.data, config.seed, progress.note)
    curriculum = Curriculum(config.curriculum)
    if checkpoint:
        trainer.load_optimizer(checkpoint)
        trainer.updates = state["updates"]
        stream.load_state_dict(state["prompts"])
        curriculum.load_state_dict(state["curriculum"])
    field = "data.heldout" if config.data.heldout else "data.train, held out"
    encoded = encode_problems(heldout_problems, trainer.tokenizer, config.data, progress.note, field)
    heldout = [prompt for _, prompt in encoded]
    progress.note(f"{len(stream)} prompts to train on, {len(heldout)} held out")
    if engine is None:
        progress.note("starting vLLM")
        engine = start_engine(model, config.data, config.rollout, config.trainer.precision, config.seed)
    engine.update_weights(trainer.named_weights(), version=start)
    resumed = start if checkpoint else None
    writer = stack.enter_context(MetricsWriter(run, config.logger, resumed)) if rank == 0 else None
    table = SampleTable(run, resumed)
    stop.begin()
    return Parts(
        config=config,
        run=run,
        start=start,
        stream=stream,
        curriculum=curriculum,
        heldout=heldout,
        rewards=rewards,
        trainer=trainer,
        engine=engine,
        progress=progress,
        writer=writer,
        table=table,
        began=began,
        stop=stop,
        pending=state.get("pending"),
    )


def log(parts: Parts, step: int, metrics: dict[str, float]) -> None:
    """Write and show the metrics of a finished step."""
    if parts.writer is not None:
        parts.writer.log(step, metrics)
    parts.progress.step(step, metrics)
    parts.pending = None


def save(parts: Parts) -> None:
    """Write the checkpoint of the last finished step: model, optimizer, and all that the next step depends on.

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

    def write_files(folder: Path) -> None:
        trainer.save_model(folder)
        trainer.save_optimizer(folder)

    if trainer.rank == 0:
        parts.table.save()
    keep = parts.config.trainer.keep_checkpoints
    write_checkpoint(parts.run, parts.done, state, write_files, keep, rank=trainer.rank, gather=trainer.gather)
    parts.saved = parts.done


@contextmanager
def saving_at_the_end(parts: Parts) -> Iterator[None]:
    """A block that SIGTERM ends: the last finished step is saved before the run leaves."""
    try:
        yield
    except Terminated:
        if parts.saved < parts.done:
            save(parts)
        if parts.writer is not None:
            parts.writer.close()
        parts.progress.close()
        leave(Terminated(parts.stop.message(parts.saved)))  # what would be closed else waits for rewards that hang
