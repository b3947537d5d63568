"""Do data, rewards and curriculum fit? Found before a model is loaded, with source, row and component."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from evolpo import InputError
from evolpo.rewards.stack import RewardStack
from evolpo.rl.curriculum import CurriculumConfig
from evolpo.rollout.prompts import DataConfig, Problem, prompt_of


def check_rewards(rewards: RewardStack, data: DataConfig, train: Sequence[Problem], heldout: Sequence[Problem]) -> None:
    """Raise InputError unless every problem has a component that judges it and what its components need.

    Args:
        rewards: the components.
        data: where the problems come from.
        train: problems to train on; none for an evaluation.
        heldout: problems held out.
    """
    tasks = {problem.task for problem in [*train, *heldout]}
    unknown = sorted(rewards.tasks - tasks)
    if unknown and train:  # what is held out need not have all tasks
        there = ", ".join(map(repr, sorted(tasks)))
        raise InputError(
            f"rewards.components: tasks {', '.join(map(repr, unknown))} are of no row of the data, which have {there}; "
            "see `task` and `task_column` of the sources"
        )
    heldout_field = "data.heldout" if data.heldout else "data.train"
    problems = [("data.train", one) for one in train] + [(heldout_field, one) for one in heldout]
    reasons: Counter[tuple[str, int, str]] = Counter()
    places: dict[tuple[str, int, str], str] = {}
    for field, problem in problems:
        why = rewards.why_unfit(prompt_of(problem))
        if why is not None:
            key = (field, problem.source, why)
            reasons[key] += 1
            places.setdefault(key, problem.place)
    if reasons:
        field, source, why = key = next(iter(reasons))
        total = sum(reasons.values())
        more = f" ({total} of {len(problems)} rows do not fit)" if total > 1 else ""
        mend = "mend the row or leave it out, choose another reward, or give the component `tasks`"
        raise InputError(f"{field}[{source}]: {places[key]}: {why}; {mend}{more}")


def check_levels(curriculum: CurriculumConfig, train: Sequence[Problem], most_tokens: int, steps: int) -> None:
    """Raise InputError unless the stages fit the difficulty levels that the rows have; see `CurriculumConfig.check`."""
    curriculum.check([problem.difficulty for problem in train], most_tokens, steps)
