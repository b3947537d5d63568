"""Reinforcement learning: the loop. Read this page first; it is the algorithm from prompts to new weights."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evolpo.model import model_folder
from evolpo.recipes.config import TrainConfig
from evolpo.recipes.context import check_context
from evolpo.recipes.engine import start_engine
from evolpo.recipes.evaluate import (
    evaluate,
    evaluation_metrics,
    evaluation_sampling,
    judged_file,
    paired_gain,
    read_judged,
    write_judged,
)
from evolpo.recipes.report import write_report
from evolpo.recipes.routing import compare_routing
from evolpo.recipes.run import new_run_folder, write_config
from evolpo.recipes.samples import sample_rows
from evolpo.rewards.stack import RewardStack
from evolpo.rl.advantages import group_advantages, has_signal
from evolpo.rl.algorithm import build_batch, segment
from evolpo.rl.checkpoint import find_checkpoint, read_state, write_checkpoint
from evolpo.rl.curriculum import Curriculum, passed
from evolpo.rl.data import Group, Prompt
from evolpo.rl.losses import LOSSES
from evolpo.rl.metrics import MetricsWriter, Progress, SampleTable, write_json
from evolpo.rl.trainer import Trainer, from_rank_0, init_distributed
from evolpo.rollout.engine import RolloutEngine
from evolpo.rollout.prompts import PromptStream, encode_problems, split_heldout


class Timer:
    """Seconds by phase of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time inside the block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


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
    began: float
    """Unix time at which the run began, less the time it lay interrupted."""


def train(config: TrainConfig, engine: RolloutEngine | None = None, run: Path | None = None) -> Path:
    """Run `evolpo train` and return the folder of the run; every rank calls it.

    Args:
        config: all that decides the result.
        engine: a running engine of the same model and lengths to use again; None starts one.
        run: the folder of a new run; None makes `output_dir/name/TIME`.
    """
    with ExitStack() as stack:
        parts = _assemble(config, stack, engine, run)
        trainer, engine, stream = parts.trainer, parts.engine, parts.stream
        resumed = parts.start if config.resume else None
        writer = stack.enter_context(MetricsWriter(parts.run, config.logger, resumed)) if trainer.rank == 0 else None
        table = SampleTable(parts.run, resumed)
        if not config.resume:
            _log(parts, writer, 0, _evaluate(parts, 0))

        for step in range(parts.start, config.steps):
            timer = Timer()
            scored, metrics = _rollout(parts, step, timer)
            units = segment(scored, config.algorithm, trainer.tokenizer)
            advantages = group_advantages(scored, config.algorithm.advantage)
            batch = build_batch(scored, units, advantages, mask_truncated=config.algorithm.mask_truncated)
            with timer("routing"):
                metrics |= compare_routing(engine, trainer, batch.rows)
            engine.sleep()
            with timer("train"):
                result = trainer.update(batch, LOSSES[config.algorithm.name], config.algorithm.optimizer_steps)
            with timer("sync"):
                engine.wake()
                engine.update_weights(trainer.named_weights(), version=step + 1)

            done = step + 1
            metrics |= result.metrics | _step_metrics(scored, units, timer, trainer.world)
            table.add(sample_rows(done, scored, units, advantages, batch, result, trainer.tokenizer, config.logger))
            if done == config.steps or (config.evaluation.every and done % config.evaluation.every == 0):
                metrics |= _evaluate(parts, done)
            if done == config.steps or done % config.trainer.save_every == 0:
                _save(parts, done, stream, table)
            _log(parts, writer, done, metrics)

        if trainer.rank == 0:
            _write_summary(parts)
            write_report(parts.run)
        trainer.barrier()
        return parts.run


def _assemble(config: TrainConfig, stack: ExitStack, engine: RolloutEngine | None, run: Path | None) -> Parts:
    """Load data, rewards, trainer and, if there is none yet, engine, from the start or from a checkpoint."""
    began = time.time()
    progress = stack.enter_context(Progress(config.steps, config.logger, int(os.environ.get("RANK", "0"))))
    progress.note("loading data and rewards")
    train_problems, heldout_problems = split_heldout(config.data, config.seed)
    rewards = RewardStack(config.rewards)
    stack.callback(rewards.close)

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
    stream = PromptStream(train_problems, trainer.tokenizer, config.data, config.seed)
    curriculum = Curriculum(config.curriculum)
    if config.resume:
        trainer.load_optimizer(Path(model))
        trainer.updates = updates
        stream.load_state_dict(state["prompts"])
        curriculum.load_state_dict(state["curriculum"])
    heldout = [prompt for _, prompt in encode_problems(heldout_problems, trainer.tokenizer, config.data)]
    progress.note(f"{len(stream)} prompts to train on, {len(heldout)} held out")
    if engine is None:
        progress.note("starting vLLM")
        engine = start_engine(model, config.data, config.rollout, config.trainer.precision, config.seed)
    engine.update_weights(trainer.named_weights(), version=start)
    return Parts(config, run, start, stream, curriculum, heldout, rewards, trainer, engine, progress, began)


def _rollout(parts: Parts, step: int, timer: Timer) -> tuple[list[Group], dict[str, float]]:
    """Sample and score the groups of a step; with dynamic sampling, refill those without signal by fresh prompts."""
    config, trainer = parts.config, parts.trainer
    wanted = config.prompts_per_step // trainer.world
    groups: list[Group] = []
    metrics: dict[str, float] = {"groups/total": 0.0, "groups/no_variance": 0.0, "groups/refilled": 0.0}
    missing = wanted
    stage = parts.curriculum.stage
    parts.stream.mix(stage.mix)
    sampling = config.rollout.sampling(config.responses_per_prompt, stage.max_response_tokens)
    right = judged = 0
    for attempt in range(config.algorithm.max_refills + 1):
        prompts = parts.curriculum.marked(parts.stream.take(missing * trainer.world, trainer.rank, trainer.world))
        parts.progress.phase("sampling")
        with timer("rollout"):
            seed = _draw_seed(config.seed, step, attempt, trainer.rank)
            scoring = parts.rewards.begin()
            fresh = parts.engine.generate(prompts, sampling, seed, done=scoring.add)
        parts.progress.phase("scoring")
        with timer("reward"):
            fresh = scoring.result(fresh)
        counts = passed(fresh)
        right, judged = right + counts[0], judged + counts[1]
        informative = [group for group in fresh if has_signal(group)]
        metrics["groups/total"] += len(fresh)
        metrics["groups/no_variance"] += len(fresh) - len(informative)
        metrics["groups/refilled"] += len(fresh) if attempt else 0
        groups += informative if config.algorithm.max_refills else fresh
        missing = int(trainer.max_over_ranks(wanted - len(groups)))
        if missing <= 0:
            break
    metrics["accuracy"] = rate = trainer.sum_over_ranks(right) / max(trainer.sum_over_ranks(judged), 1.0)
    if config.curriculum.stages:
        metrics["curriculum/stage"] = parts.curriculum.number + 1.0
        if parts.curriculum.advance(rate):
            parts.progress.note(f"stage {parts.curriculum.number + 1} {parts.curriculum.stage.name}")
    parts.progress.phase("training")
    return groups[:wanted], metrics | parts.rewards.last_metrics


def _draw_seed(*path: int) -> int:
    return int(np.random.SeedSequence(path).generate_state(1)[0])


def _step_metrics(groups: Sequence[Group], units: Any, timer: Timer, world: int) -> dict[str, float]:
    responses = [response for group in groups for response in group.responses]
    rewards = [reward for group in groups for reward in group.rewards if reward is not None]
    lengths = [len(response.token_ids) for response in responses]
    counts = [ids[-1] + 1 for group in units for ids in group if ids]
    seconds = sum(timer.seconds.values())
    metrics = {f"seconds/{phase}": value for phase, value in timer.seconds.items()}
    metrics |= {"seconds/step": seconds, "sync/seconds": timer.seconds["sync"]}
    if responses:
        metrics |= {
            "reward/mean": float(np.mean(rewards)),
            "reward/std": float(np.std(rewards)),
            "response/tokens_mean": float(np.mean(lengths)),
            "response/tokens_max": float(max(lengths)),
            "response/truncated": float(np.mean([response.truncated for response in responses])),
            "units/per_response": float(np.mean(counts)),
            "units/tokens_mean": sum(lengths) / sum(counts),
            "tokens_per_s": sum(lengths) * world / seconds,
        }
    return metrics | _level_metrics(groups)


def _level_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Mean tokens and share of right responses by difficulty; levels without a response are left out."""
    metrics = {}
    for level in sorted({group.prompt.difficulty for group in groups} - {""}):
        part = [group for group in groups if group.prompt.difficulty == level]
        lengths = [len(response.token_ids) for group in part for response in group.responses]
        metrics[f"response/{level}/tokens_mean"] = float(np.mean(lengths))
        right, judged = passed(part)
        if judged:
            metrics[f"accuracy/{level}"] = right / judged
    return metrics


def _evaluate(parts: Parts, step: int) -> dict[str, float]:
    """Judge the held-out problems, each rank its share, and keep the verdicts beside the run."""
    if not parts.heldout:
        return {}
    config, trainer = parts.config, parts.trainer
    parts.progress.phase("evaluating")
    sampling = evaluation_sampling(config.evaluation, config.rollout.max_response_tokens, config.rollout.temperature)
    share = parts.heldout[trainer.rank :: trainer.world]
    seed = _draw_seed(config.seed, step, 1 << 20, trainer.rank)
    judged = evaluate(parts.engine, parts.rewards, share, config.evaluation, sampling, seed)
    everything = [one for part in trainer.gather(judged) for one in part]
    if trainer.rank == 0:
        write_judged(judged_file(parts.run, step), everything)
    return evaluation_metrics(everything, config.evaluation)


def _save(parts: Parts, step: int, stream: PromptStream, table: SampleTable) -> None:
    trainer = parts.trainer
    state = {
        "step": step,
        "updates": trainer.updates,
        "seed": parts.config.seed,
        "world": trainer.world,
        "zero_stage": parts.config.trainer.zero_stage,
        "prompts": stream.state_dict(),
        "curriculum": parts.curriculum.state_dict(),
        "seconds": time.time() - parts.began,
    }

    def write_files(folder: Path) -> None:
        trainer.save_model(folder)
        trainer.save_optimizer(folder)

    keep = parts.config.trainer.keep_checkpoints
    write_checkpoint(parts.run, step, state, write_files, keep, rank=trainer.rank, barrier=trainer.barrier)
    if trainer.rank == 0:
        table.save()


def _log(parts: Parts, writer: MetricsWriter | None, step: int, metrics: dict[str, float]) -> None:
    if writer is not None:
        writer.log(step, metrics)
    parts.progress.step(step, metrics)


def _write_summary(parts: Parts) -> None:
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
        gain, interval = paired_gain(before, after)
        summary |= {
            "problems": len(after),
            "accuracy_before": float(np.mean([one.accuracy for one in before])),
            "accuracy_after": float(np.mean([one.accuracy for one in after])),
            "accuracy_gain": gain,
            "accuracy_gain_ci95": list(interval),
            "tokens_before": float(np.mean([one.tokens for one in before])),
            "tokens_after": float(np.mean([one.tokens for one in after])),
        }
    write_json(parts.run / "summary.json", summary)
