"""The rollout of a step: prompts from the stream, responses from the engine, rewards beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from evolpo.recipes.runs.evaluation import right_of
from evolpo.recipes.runs.seeds import draw_seed
from evolpo.recipes.training.metrics import Timer
from evolpo.recipes.training.parts import Parts
from evolpo.rl.advantages import has_signal
from evolpo.rl.curriculum import passed
from evolpo.rl.data import Group, Prompt
from evolpo.rollout.engine import Sampling


def rollout(parts: Parts, step: int, timer: Timer) -> tuple[list[Group], dict[str, float]]:
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
    metrics["accuracy"] = rate = trainer.sum_over_ranks(right) / max(trainer.sum_over_ranks(judged), 1.0)
    if config.curriculum.stages:
        metrics["curriculum/stage"] = parts.curriculum.number + 1.0
        if parts.curriculum.advance(rate):
            parts.progress.note(f"stage {parts.curriculum.number + 1} {parts.curriculum.stage.name}")
    parts.progress.phase("training")
    return groups[:wanted], metrics | parts.rewards.last_metrics


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
