"""`--dry-run`: all that can go wrong before the first step, tried without a model: data, prompts, rewards, context."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evolpo import InputError
from evolpo.model import load_tokenizer, model_folder
from evolpo.recipes.config import TrainConfig
from evolpo.recipes.runs.context import check_context, check_memory, check_model_memory, context_tokens
from evolpo.recipes.runs.evaluation import check_component
from evolpo.recipes.runs.fit import check_levels, check_rewards
from evolpo.recipes.runs.folder import check_name, writable_folder
from evolpo.recipes.runs.launch import local_processes
from evolpo.rewards.stack import RewardsConfig, RewardStack
from evolpo.rl.data import Group, Prompt, Response
from evolpo.rollout.prompts import DataConfig, Problem, encode_prompt, split_heldout


@dataclass(frozen=True)
class Encoded:
    """A problem with its prompt, and where it comes from."""

    source: str
    """Full name of its source, such as `data.train[0]`."""
    problem: Problem
    prompt: Prompt


def dry_run(config: TrainConfig) -> str:
    """Check all that can be checked without loading a model; returns what is to be seen of it.

    Raises:
        InputError: something does not fit; it names the source, the problem and the component.
    """
    world = int(os.environ.get("WORLD_SIZE", local_processes(config.processes)))
    config.check_ranks(world)
    check_name(config.name)
    writable_folder(config.output_dir)
    model = model_folder(config.model)
    check_context(model, config.data, config.rollout)
    check_memory(config.rollout, config.prompts_per_step * config.responses_per_prompt)
    check_model_memory(model, config.trainer.precision, True, world)
    notes: list[str] = []
    train, heldout = split_heldout(config.data, config.seed, notes.append)
    check_levels(config.curriculum, train, config.rollout.max_response_tokens, config.steps)
    tokenizer = load_tokenizer(model)
    own = "data.heldout" if config.data.heldout else "data.train"
    encoded = encode(train, "data.train", tokenizer, config.data)
    judged = encode(heldout, own, tokenizer, config.data)
    lengths = [len(one.prompt.token_ids) for one in (*encoded, *judged)]
    tokens = describe_lengths(lengths, config.data.max_prompt_tokens)
    _check_fit(config, train, heldout)
    try_rewards(config, first_of_each_source([*encoded, *judged]))
    context = context_tokens(model)
    return "\n".join(
        [
            f"model {model}",
            *notes,
            tokens,
            f"context of the model: {context or 'unknown'} tokens",
            config.describe_batch(world),
            *(f"warning: {warning}" for warning in config.warnings()),
            "the first prompt, as the model sees it:",
            shown(encoded, tokenizer, config.data.max_prompt_tokens),
            "configuration is fine",
        ]
    )


def encode(problems: Sequence[Problem], field: str, tokenizer: Any, config: DataConfig) -> list[Encoded]:
    """All problems inside the chat template, whatever their length; `field` is the list that their sources are in."""
    return [
        Encoded(f"{field}[{problem.source}]", problem, encode_prompt(problem, tokenizer, config))
        for problem in problems
    ]


def describe_lengths(lengths: Sequence[int], limit: int) -> str:
    """Tokens a prompt in a line, and how many prompts are over the limit.

    Raises:
        InputError: all of them are.
    """
    dropped = sum(length > limit for length in lengths)
    if dropped == len(lengths):
        raise InputError(
            f"data.max_prompt_tokens: all {len(lengths)} prompts are longer than {limit} tokens; "
            f"set at least {min(lengths)}"
        )
    middle, long = np.percentile(lengths, [50, 99])
    return f"tokens a prompt: p50 {middle:.0f}, p99 {long:.0f}, longest {max(lengths)}; {dropped} over {limit} dropped"


def first_of_each_source(encoded: Iterable[Encoded]) -> list[Encoded]:
    """One problem of each source."""
    found: dict[str, Encoded] = {}
    for one in encoded:
        found.setdefault(one.source, one)
    return list(found.values())


def _check_fit(config: TrainConfig, train: Sequence[Problem], heldout: Sequence[Problem]) -> None:
    stack = RewardStack(config.rewards)
    stack.close()
    check_component(config.evaluation, stack.names)
    check_rewards(stack, config.data, train, heldout)


def try_rewards(config: TrainConfig, problems: Sequence[Encoded]) -> None:
    """Try each component alone, gates aside, on made-up responses to a problem of each source that it judges.

    Raises:
        InputError: a component cannot be loaded, or fails on a response.
    """
    for index, spec in enumerate(config.rewards.components):
        # On its own, so that no gate hides it; what it says about the response is of no matter.
        alone = replace(config.rewards, components=[replace(spec, gate=False, weight=1.0)], max_unscored=1.0)
        own = [one for one in problems if not spec.tasks or one.problem.task in spec.tasks]
        _try_component(alone, f"rewards.components[{index}].use: {spec.use}", own, config.responses_per_prompt)


def _try_component(config: RewardsConfig, name: str, problems: Sequence[Encoded], responses: int) -> None:
    stack = RewardStack(config)
    try:
        for one in problems:
            stack.score([Group(one.prompt, made_up(one.problem, responses))])
            for failure in stack.unscored.failed:
                if failure.score.unscored:
                    raise InputError(f"{name} fails on {one.source}, problem {one.problem.id}: {failure.reason}")
    finally:
        stack.close()


def made_up(problem: Problem, count: int) -> tuple[Response, ...]:
    r"""Responses to try a reward with: the reference answer in `\boxed{}`, and words that are no answer, in turn."""
    answer = f"The answer is \\boxed{{{problem.answer if problem.answer is not None else 42}}}."
    texts = (answer, "I do not know.")
    return tuple(Response((index,), texts[index % 2], (0.0,), "stop") for index in range(count))


def shown(encoded: Sequence[Encoded], tokenizer: Any, limit: int) -> str:
    """The first prompt that is not dropped, special tokens and all, set off by bars."""
    first = next((one for one in encoded if len(one.prompt.token_ids) <= limit), encoded[0])
    text = tokenizer.decode(first.prompt.token_ids)
    return "\n".join(f"| {line}" for line in text.splitlines())
