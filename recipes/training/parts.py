"""The parts of a run, put together from the start or from a checkpoint, and saved again."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from evolpo.model import model_folder
from evolpo.recipes.config import TrainConfig
from evolpo.recipes.runs.context import check_context
from evolpo.recipes.runs.engine import start_engine
from evolpo.recipes.runs.fit import check_levels, check_rewards
from evolpo.recipes.runs.folder import new_run_folder, write_config
from evolpo.rewards.stack import RewardStack
from evolpo.rl.checkpoint import find_checkpoint, read_state, write_checkpoint
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


def assemble(config: TrainConfig, stack: ExitStack, engine: RolloutEngine | None, run: Path | None) -> Parts:
    """Load data, rewards, trainer and, if there is none yet, engine, from the start or from a checkpoint.

    Args:
        config: all that decides the result.
        stack: closes what must be closed.
        engine: a running engine of the same model and lengths; None starts one.
        run: the folder of a new run; None makes one.
    """
    began = time.time()
    progress = stack.enter_context(Progress(config.steps, config.logger, int(os.environ.get("RANK", "0"))))
    progress.note("loading data and rewards")
    train_problems, heldout_problems = split_heldout(config.data, config.seed, progress.note)
    check_levels(config.curriculum, train_problems, config.rollout.max_response_tokens, config.steps)
    rewards = RewardStack(config.rewards)
    stack.callback(rewards.close)
    check_rewards(rewards, config.data, train_problems, heldout_problems)

    rank, world = init_distributed()
    config.check_ranks(world)
    model = base = model_folder(config.model)
    check_context(base, config.data, config.rollout)
    start = updates = 0
    if config.resume:
        run, checkpoint = find_checkpoint(config.resume)
        state = read_state(checkpoint)
        start, updates, model, began = state["step"], state["updates"], str(checkpoint), began - state["seconds"]
    else:
        run = run or Path(from_rank_0(str(new_run_folder(config.output_dir, config.name)) if rank == 0 else ""))
        if rank == 0:
            write_config(run, config)
    rewards.unscored.file = run / ("unscored.jsonl" if rank == 0 else f"unscored_rank{rank}.jsonl")
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
    if config.resume:
        trainer.load_optimizer(Path(model))
        trainer.updates = updates
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
    resumed = start if config.resume else None
    writer = stack.enter_context(MetricsWriter(run, config.logger, resumed)) if rank == 0 else None
    table = SampleTable(run, resumed)
    return Parts(
        config, run, start, stream, curriculum, heldout, rewards, trainer, engine, progress, writer, table, began
    )


def save(parts: Parts, step: int) -> None:
    """Write the checkpoint of a step: model, optimizer, and all that the next step depends on."""
    trainer = parts.trainer
    state = {
        "step": step,
        "updates": trainer.updates,
        "seed": parts.config.seed,
        "world": trainer.world,
        "zero_stage": parts.config.trainer.zero_stage,
        "prompts": parts.stream.state_dict(),
        "curriculum": parts.curriculum.state_dict(),
        "seconds": time.time() - parts.began,
    }

    def write_files(folder: Path) -> None:
        trainer.save_model(folder)
        trainer.save_optimizer(folder)

    keep = parts.config.trainer.keep_checkpoints
    write_checkpoint(parts.run, step, state, write_files, keep, rank=trainer.rank, barrier=trainer.barrier)
    if trainer.rank == 0:
        parts.table.save()
