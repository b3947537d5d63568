"""The rollout of a step: prompts from the stream, responses from the engine, rewards beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from evolpo.recipes.runs.evaluation import right_of
from evolpo.recipes.runs.seeds import draw_seed
from evolpo.recipes.training.ahead import Ahead, staleness_metrics
from evolpo.recipes.training.metrics import Timer
from evolpo.recipes.training.parts import Parts
from evolpo.recipes.training.record import read_batch, write_batch
from evolpo.rl.advantages import has_signal
from evolpo.rl.curriculum import passed
from evolpo.rl.data import Group, Prompt
from evolpo.rl.training.distributed import from_rank_0
from evolpo.rollout.engine import Sampling


def rollout(parts: Parts, step: int, timer: Timer) -> tuple[list[Group], dict[str, float]]:
    """The groups of a step, sampled and scored; dynamic sampling replaces those without signal by fresh prompts."""
    config, trainer = parts.config, parts.trainer
    if config.replay:
        with timer("rollout"):
            return read_batch(Path(config.replay), step + 1, trainer.rank, trainer.world)
    found = _from_fleet if config.rollout.fleet.engines else _from_engine
    groups, metrics = found(parts, step, timer)
    if config.logger.record:
        by_rank = trainer.gather(groups)
        if trainer.rank == 0:
            write_batch(parts.run, step + 1, by_rank, metrics)
    return groups, metrics


def _from_engine(parts: Parts, step: int, timer: Timer) -> tuple[list[Group], dict[str, float]]:
    """From the engine of this process, while the trainer waits."""
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
        seed = draw_seed(config.seed, step, attempt, trainer.rank)
        work = partial(_scored, parts, prompts, sampling, seed, timer)
        fresh = parts.stop.interruptible(work, together=config.rollout.tensor_parallel > 1)
        parts.stop.check(trainer)
        assert fresh is not None, "all ranks leave where one is interrupted"
        counts = passed(fresh, right_of(config.evaluation))
        right, judged = right + counts[0], judged + counts[1]
        informative = [group for group in fresh if has_signal(group)]
        metrics["groups/total"] += len(fresh)
        metrics["groups/no_variance"] += len(fresh) - len(informative)
        metrics["groups/refilled"] += len(fresh) if attempt else 0
        groups += informative if config.algorithm.max_refills else fresh
        missing = int(trainer.max_over_ranks(wanted - len(groups)))
        if missing <= 0:
            break
    rate = trainer.sum_over_ranks(right) / max(trainer.sum_over_ranks(judged), 1.0)
    metrics |= _advance(parts, rate)
    return groups[:wanted], metrics | parts.rewards.last_metrics


def _advance(parts: Parts, rate: float) -> dict[str, float]:
    """Tell the curriculum the share of right responses, and go over to training."""
    metrics = {"accuracy": rate}
    if parts.config.curriculum.stages:
        metrics["curriculum/stage"] = parts.curriculum.number + 1.0
        if parts.curriculum.advance(rate):
            parts.progress.note(f"stage {parts.curriculum.number + 1} {parts.curriculum.stage.name}")
    parts.progress.phase("training")
    return metrics


def _from_fleet(parts: Parts, step: int, timer: Timer) -> tuple[list[Group], dict[str, float]]:
    """From engines that sample while others train: rank 0 asks, waits and shares out."""
    trainer = parts.trainer
    parts.progress.phase("waiting for groups")
    found: tuple[list[Group], list[Group]] | None = None
    with timer("rollout"):
        if parts.ahead is not None:
            found = parts.stop.interruptible(partial(_waited_for, parts, parts.ahead, step))
        parts.stop.check(trainer)
    replaced, taken = from_rank_0(found) or ([], [])
    share = len(taken) // trainer.world
    mine = taken[trainer.rank * share : (trainer.rank + 1) * share]
    right, judged = passed([*replaced, *taken], right_of(parts.config.evaluation))
    metrics = {
        "groups/total": float(len(replaced) + len(taken)),
        "groups/no_variance": float(len(replaced) + sum(not has_signal(group) for group in taken)),
        "groups/refilled": float(len(replaced)),
    }
    metrics |= staleness_metrics(taken, step)
    if parts.ahead is not None:
        metrics |= parts.ahead.fleet_metrics()
    metrics |= _advance(parts, right / max(judged, 1))
    if parts.ahead is not None and parts.rewards.unscored.last:
        parts.progress.note(parts.rewards.unscored.last)
    return mine, metrics | parts.rewards.last_metrics


def _waited_for(parts: Parts, ahead: Ahead, step: int) -> tuple[list[Group], list[Group]]:
    """Ask for as many groups as there is room for until a step may take its own."""
    config = parts.config
    stage = parts.curriculum.stage
    parts.stream.mix(stage.mix)
    sampling = config.rollout.sampling(config.responses_per_prompt, stage.max_response_tokens)
    most = config.algorithm.max_refills * config.prompts_per_step
    while True:
        ahead.replace_those_without_signal(most)
        ahead.ask(parts.curriculum.marked(parts.stream.take(ahead.room(step, config.steps))), step, sampling)
        found = ahead.take(step)
        if found is not None:
            return found
        ahead.wait()


def _scored(parts: Parts, prompts: Sequence[Prompt], sampling: Sampling, seed: int, timer: Timer) -> list[Group]:
    """Sample a group for each prompt and score it, while others are still sampled."""
    parts.progress.phase("sampling")
    with timer("rollout"):
        scoring = parts.rewards.begin()
        fresh = parts.engine.generate(prompts, sampling, seed, done=scoring.add)
    parts.stop.apart()
    parts.progress.phase("scoring")
    with timer("reward"):
        scored = scoring.result(fresh)
    if parts.rewards.unscored.last:
        parts.progress.note(parts.rewards.unscored.last)
    return scored
