"""Reinforcement learning: the loop. Read this page first; it is the algorithm from prompts to new weights."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from evolpo.model import model_folder
from evolpo.recipes.config import ModelCheckConfig, TrainConfig
from evolpo.recipes.model import check
from evolpo.recipes.report.report import closing_lines, write_report
from evolpo.recipes.runs.dry_run import dry_run
from evolpo.recipes.runs.evaluation import right_of
from evolpo.recipes.runs.fleet import trainers
from evolpo.recipes.runs.launch import launched
from evolpo.recipes.runs.stop import Stop
from evolpo.recipes.training.agreement import check_agreement
from evolpo.recipes.training.ahead import gap_by_age
from evolpo.recipes.training.assembly import assemble
from evolpo.recipes.training.evaluation import evaluate_heldout, write_summary
from evolpo.recipes.training.metrics import Timer, step_metrics
from evolpo.recipes.training.parts import log, save, saving_at_the_end
from evolpo.recipes.training.record import check_replay
from evolpo.recipes.training.rollout import rollout
from evolpo.recipes.training.routing import compare_routing
from evolpo.recipes.training.samples import sample_rows
from evolpo.recipes.training.sync import sync
from evolpo.rl.advantages import group_advantages
from evolpo.rl.algorithm import build_batch, segment
from evolpo.rl.losses import LOSSES
from evolpo.rollout.engine import RolloutEngine


def main(config: TrainConfig) -> None:
    """Run `evolpo train` from the command line."""
    if config.replay:
        check_replay(Path(config.replay), config.steps)
    if config.dry_run:
        found = dry_run(config)
        if Path(model_folder(config.model)).is_dir():
            check(ModelCheckConfig(config.model))
        print(found)
    elif not launched("train", trainers(config.processes, config.rollout.fleet)):
        run = train(config)
        if int(os.environ.get("RANK", "0")) == 0:
            print(closing_lines(run))


def train(config: TrainConfig, engine: RolloutEngine | None = None, run: Path | None = None) -> Path:
    """Run `evolpo train` and return the folder of the run; every rank calls it.

    Args:
        config: all that decides the result.
        engine: a running engine of the same model and lengths to use again; None starts one.
        run: the folder of a new run; None makes `output_dir/name/TIME`.
    """
    with ExitStack() as stack:
        stop = stack.enter_context(Stop())
        parts = assemble(config, stack, engine, run, stop)
        trainer, engine = parts.trainer, parts.engine
        stack.enter_context(saving_at_the_end(parts))
        if parts.start == 0:
            log(parts, 0, evaluate_heldout(parts, 0))
        elif parts.pending is not None:
            log(parts, parts.start, parts.pending | evaluate_heldout(parts, parts.start))

        for step in range(parts.start, config.steps):
            timer = Timer()
            scored, metrics = rollout(parts, step, timer)
            units = segment(scored, config.algorithm, trainer.tokenizer)
            advantages = group_advantages(scored, config.algorithm.advantage)
            batch = build_batch(scored, units, advantages, mask_truncated=config.algorithm.mask_truncated)
            with timer("routing"):
                metrics |= compare_routing(engine, trainer, batch.rows)
            slept = engine.sleep()
            with timer("train"):
                result = trainer.update(batch, LOSSES[config.algorithm.name], config.algorithm.optimizer_steps)
            with timer("sync"):
                given = sync(engine, trainer, version=step + 1)
            if slept and step == parts.start:
                check_agreement(engine, trainer, batch.rows, config.seed)

            done = step + 1
            metrics |= {"sync/bytes": float(given)} | result.metrics
            metrics |= gap_by_age(scored, batch, result.old_logprobs, step)
            metrics |= step_metrics(scored, units, timer, trainer.world, right_of(config.evaluation))
            parts.table.add(
                sample_rows(done, scored, units, advantages, batch, result, trainer.tokenizer, config.logger)
            )
            parts.finish(done, metrics)
            if done == config.steps or (config.evaluation.every and done % config.evaluation.every == 0):
                metrics |= evaluate_heldout(parts, done)
            log(parts, done, metrics)
            if done == config.steps or done % config.trainer.save_every == 0:
                save(parts)
            parts.saver.check()
            stop.check(trainer)

        parts.saver.wait()
        if trainer.rank == 0:
            write_summary(parts)
            write_report(parts.run)
        trainer.barrier()
        return parts.run
