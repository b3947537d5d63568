"""What a reward needs of a prompt, so that data and reward that do not fit are found before a model is loaded.

    @sample_reward
    @needs(an_answer)
    def mine(sample): ...

A class of rewards has a method `needs(prompt)` instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from evolpo.rewards.answers.accepted import accepted_answers, answer_texts
from evolpo.rewards.base import FunctionReward, Reward
from evolpo.rl.data import Prompt

Check = Callable[..., str | None]
"""Takes a prompt, and the options of the reward as keyword arguments; says what is missing, None if nothing is."""
Function = TypeVar("Function", bound=Callable[..., Any])


def needs(check: Check) -> Callable[[Function], Function]:
    """Declare what a function of samples needs; stands below `@sample_reward` or `@group_reward`."""

    def declare(function: Function) -> Function:
        function.needs = check  # type: ignore[attr-defined]
        return function

    return declare


def an_answer(prompt: Prompt, **_: Any) -> str | None:
    """The check of a reward that takes a reference answer of any type, as `answer_texts` reads it."""
    return None if answer_texts(prompt.answer) else "it has no reference answer"


def a_plain_answer(prompt: Prompt, **_: Any) -> str | None:
    """The check of a reward that takes texts, finite numbers, truth values and lists of these (`accepted_answers`)."""
    try:
        accepted_answers(prompt.answer)
    except ValueError as error:
        return str(error)
    return None


def why_unfit(reward: Reward, prompt: Prompt) -> str | None:
    """Why a reward cannot judge responses to a prompt; None if it can, or does not say what it needs."""
    check = getattr(reward, "needs", None)
    if check is None:
        return None
    options = reward.options if isinstance(reward, FunctionReward) else {}
    why: str | None = check(prompt, **options)
    return why
