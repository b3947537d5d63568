"""`--dry-run`: all that can go wrong before the first step, tried without a model: data, prompts, rewards, context."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from evolpo import InputError
from evolpo.model import load_tokenizer, model_folder
from evolpo.model.lora import check_targets
from evolpo.recipes.config import TrainConfig
from evolpo.recipes.memory.check import check_training_memory
from evolpo.recipes.runs.context import check_context, check_memory, check_model_memory, context_tokens
from evolpo.recipes.runs.evaluation import check_component
from evolpo.recipes.runs.fit import check_levels, check_rewards
from evolpo.recipes.runs.fleet import check_fleet, trainers
from evolpo.recipes.runs.folder import writable_folder
from evolpo.recipes.runs.launch import local_processes
from evolpo.recipes.runs.parallel import check_model
from evolpo.rewards.stack import RewardStack
from evolpo.rl.data import Group, Prompt, Response
from evolpo.rollout.prompts import Problem, encode_problems, split_heldout

Encoded = tuple[Problem, Prompt]
"""A problem with its prompt."""


def dry_run(config: TrainConfig) -> str:
    """Check all that can be checked without loading a model; returns what is to be seen of it.

    Raises:
        InputError: something does not fit; it names the source, the problem and the component.
    """
    world = int(os.environ.get("WORLD_SIZE", local_processes(trainers(config.processes, config.rollout.fleet))))
    config.check_ranks(world)
    writable_folder(config.output_dir)
    model = model_folder(config.model)
    check_context(model, config.data, config.rollout)
    check_model(config.rollout.tensor_parallel, model)
    check_memory(config.rollout, config.prompts_per_step * config.responses_per_prompt)
    check_fleet(model, config.rollout, config.trainer.precision)
    parts = config.rollout.tensor_parallel
    check_model_memory(model, config.trainer.precision, True, world, config.model.adapters is not None, parts)
    if config.model.adapters is not None:
        check_targets(model, config.model.adapters)
    check_training_memory(model, config, world)
    notes: list[str] = []
    train, heldout = split_heldout(config.data, config.seed, notes.append)
    check_levels(config.curriculum, train, config.rollout.max_response_tokens, config.steps)
    tokenizer = load_tokenizer(model)
    own, name = ("data.heldout", "data.heldout") if config.data.heldout else ("data.train", "data.train, held out")
    kept = encode_problems(train, tokenizer, config.data, notes.append)
    judged = encode_problems(heldout, tokenizer, config.data, notes.append, name)
    with closing(RewardStack(config.rewards)) as rewards:
        check_component(config.evaluation, rewards.names)
        check_rewards(rewards, config.data, train, heldout)
        for field, pairs in (("data.train", kept), (own, judged)):
            try_rewards(rewards, field, first_of_each_source(pairs), config.responses_per_prompt)
    context = context_tokens(model)
    return "\n".join(
        [
            f"model {model}",
            *notes,
            describe_lengths([len(prompt.token_ids) for _, prompt in (*kept, *judged)]),
            f"context of the model: {context or 'unknown'} tokens",
            config.describe_batch(world),
            *(f"warning: {warning}" for warning in config.warnings()),
            "the first prompt, as the model sees it:",
            shown(kept[0][1], tokenizer),
            "configuration is fine",
        ]
    )


def describe_lengths(lengths: Sequence[int]) -> str:
    """Tokens a prompt in a line."""
    middle, long = np.percentile(lengths, [50, 99])
    return f"tokens a prompt: p50 {middle:.0f}, p99 {long:.0f}, longest {max(lengths)}"


def first_of_each_source(encoded: Iterable[Encoded]) -> list[Encoded]:
    """One problem of each source."""
    found: dict[int, Encoded] = {}
    for one in encoded:
        found.setdefault(one[0].source, one)
    return list(found.values())


def try_rewards(rewards: RewardStack, field: str, problems: Sequence[Encoded], responses: int) -> None:
    """Try each component alone, gates aside, on made-up responses to problems that it judges.

    Args:
        rewards: the components.
        field: full name of the list of sources.
        problems: one of each source.
        responses: to a prompt.

    Raises:
        InputError: a component fails on a response.
    """
    for problem, prompt in problems:
        for index, failure in rewards.failures_alone(Group(prompt, made_up(problem, responses))):
            name = f"rewards.components[{index}].use: {failure.use}"
            raise InputError(f"{name} fails on {field}[{problem.source}], problem {problem.id}: {failure.reason}")


def made_up(problem: Problem, count: int) -> tuple[Response, ...]:
    r"""Responses to try a reward with: the reference answer in `\boxed{}`, and words that are no answer, in turn."""
    answer = f"The answer is \\boxed{{{problem.answer if problem.answer is not None else 42}}}."
    texts = (answer, "I do not know.")
    return tuple(Response((index,), texts[index % 2], (0.0,), "stop") for index in range(count))


def shown(prompt: Prompt, tokenizer: Any) -> str:
    """A prompt with its special tokens, set off by bars."""
    text = tokenizer.decode(prompt.token_ids)
    return "\n".join(f"| {line}" for line in text.splitlines())
