"""verl, SkyRL, NeMo-RL, rLLM and slime: functions of one response, some of them in a form for many."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from types import SimpleNamespace
from typing import Any

from evolpo.rewards.adapters.foreign import Foreign, adapter, foreign, load_foreign, then, token_ids
from evolpo.rewards.adapters.signatures import Function, first_results
from evolpo.rewards.base import Sample, Scope
from evolpo.rewards.values import Score, plain_numbers, score_of

VERL = ("data_source", "solution_str", "ground_truth", "extra_info", "response_token_ids")
VERL_BATCH = ("data_sources", "solution_strs", "ground_truths", "extra_infos")


def _load(path: str, options: Mapping[str, Any], *own: str) -> Foreign:
    return load_foreign(path, {name: value for name, value in options.items() if name not in ("function", *own)})


def _check_two(one: Foreign, toolkit: str, pair: tuple[str, str]) -> None:
    """Refuse a function that does not take two arguments by position."""
    left = [name for name in one.signature.positional if name not in one.arguments]
    if len(left) != 2:
        takes = ", ".join(left) or "nothing"
        raise ValueError(f"function: {one.name} takes {takes}; {toolkit} passes {pair[0]} and {pair[1]} by position")
    missing = one.signature.required - set(left) - one.arguments.keys()
    if missing:
        raise ValueError(f"function: {one.name} needs {min(missing)!r}; give it as options.{min(missing)}")
    one.signature.check(one.found, left, one.arguments, toolkit)


def _two_by_position(one: Foreign) -> bool:
    """Whether it names nothing of verl's and takes two arguments: the response and its reference."""
    return not {*VERL, *VERL_BATCH} & {*one.signature.names} and not one.signature.catches_all


def _check_verl(path: str, options: Mapping[str, Any]) -> tuple[list[Function], Scope, str]:
    one = _load(path, options)
    batch = bool({*VERL_BATCH} & {*one.signature.names})
    if _two_by_position(one):
        _check_two(one, "verl", ("the response", "the reference answer"))
    else:
        one.signature.check(one.found, VERL_BATCH if batch else VERL, one.arguments, "verl")
    return [one.found], "group" if batch else "sample", one.name


@adapter(_check_verl)
def verl(sample: Sample | list[Sample], *, function: str, **arguments: Any) -> Any:
    """verl: `compute_score(data_source, solution_str, ground_truth, extra_info) -> float | dict` with a `score`.

    It is passed what it names of these, and the token ids as `response_token_ids`; a function of two other names gets
    response and reference. The form for many, `(data_sources, solution_strs, ground_truths, extra_infos) -> list`, gets
    the responses to one prompt. As in verl's data files, `metadata` may have `data_source`, `extra_info` and
    `reward_model.ground_truth`; without the last the reference answer is taken, without `extra_info` all of the
    metadata. Other numbers of the dictionary become metrics.

    Args:
        sample: one response, or all responses to a prompt.
        function: `module:attribute`.
        arguments: further keyword arguments (verl's `reward_kwargs`); they go before those above.
    """
    one = foreign(function, arguments)
    if isinstance(sample, list):
        given = [_verl_arguments(each) for each in sample]
        together = {f"{name}s": [each[name] for each in given] for name in VERL[:4]}
        result = one.function(**one.signature.accepted({**together, **one.arguments}))
        return then(
            result, lambda found: [_verl_score(each, one) for each in first_results(found, len(sample), one.name)]
        )
    if _two_by_position(one):
        given_here = _verl_arguments(sample)
        result = one.function(given_here["solution_str"], given_here["ground_truth"], **one.arguments)
    else:
        named = {**_verl_arguments(sample), **one.arguments}
        if "response_token_ids" in one.signature.names and "response_token_ids" not in named:
            named["response_token_ids"] = token_ids([sample], one.name)[0]
        result = one.function(**one.signature.accepted(named))
    return then(result, lambda found: _verl_score(found, one))


def _verl_arguments(sample: Sample) -> dict[str, Any]:
    return {
        "data_source": sample.metadata.get("data_source", ""),
        "solution_str": sample.text,
        "ground_truth": _ground_truth(sample, "reward_model"),
        "extra_info": sample.metadata.get("extra_info", dict(sample.metadata)),
    }


def _ground_truth(sample: Sample, column: str) -> Any:
    holder = sample.metadata.get(column)
    return holder.get("ground_truth", sample.answer) if isinstance(holder, Mapping) else sample.answer


def _verl_score(result: Any, one: Foreign) -> Score:
    return _keyed_score(result, "score", one) if isinstance(result, Mapping) else score_of(result)


def _keyed_score(result: Mapping[str, Any], key: str, one: Foreign) -> Score:
    """The score of a mapping: the value under the key; its other numbers are metrics."""
    if key not in result:
        raise ValueError(f"{one.name} returned {', '.join(map(str, result)) or 'nothing'} and no {key!r}")
    score = score_of(result[key])
    others = plain_numbers({name: value for name, value in result.items() if name != key})
    return replace(score, metrics=others) if score.value is not None else score


def _check_skyrl(path: str, options: Mapping[str, Any]) -> tuple[list[Function], Scope, str]:
    one = _load(path, options)
    _check_two(one, "skyrl", ("the response", "the ground truth"))
    return [one.found], "sample", one.name


@adapter(_check_skyrl)
def skyrl(sample: Sample, *, function: str, **arguments: Any) -> Any:
    """SkyRL: `compute_score(response, ground_truth) -> float | dict`, as its environments call it.

    Args:
        sample: one response; `reward_spec.ground_truth` of the metadata goes before the reference answer.
        function: `module:attribute`.
        arguments: further keyword arguments.
    """
    one = foreign(function, arguments)
    result = one.function(sample.text, _ground_truth(sample, "reward_spec"), **one.arguments)
    return then(result, lambda found: _verl_score(found, one))


def _check_nemo_rl(path: str, options: Mapping[str, Any]) -> tuple[list[Function], Scope, str]:
    one = _load(path, options)
    _check_two(one, "nemo_rl", ("the ground truth", "the response"))
    return [one.found], "sample", one.name


@adapter(_check_nemo_rl)
def nemo_rl(sample: Sample, *, function: str, **arguments: Any) -> Any:
    """NeMo-RL: `f(ground_truth, response) -> float | (float, is_correct)`, as its environments combine them.

    Args:
        sample: one response.
        function: `module:attribute`.
        arguments: further keyword arguments.
    """
    one = foreign(function, arguments)

    def read(result: Any) -> Score:
        if not isinstance(result, tuple):
            return score_of(result)
        score = score_of(result[0])
        correct = plain_numbers({"is_correct": result[1]}) if len(result) > 1 else {}
        return replace(score, metrics=correct) if score.value is not None else score

    return then(one.function(sample.answer, sample.text, **one.arguments), read)


def _check_rllm(path: str, options: Mapping[str, Any]) -> tuple[list[Function], Scope, str]:
    one = _load(path, options)
    if len(one.signature.positional) != 1:
        _check_two(one, "rllm", ("task_info", "the response"))
    return [one.found], "sample", one.name


@adapter(_check_rllm)
def rllm(sample: Sample, *, function: str, **arguments: Any) -> Any:
    """rLLM: `f(task_info, action) -> RewardOutput | float`, or `f(reward_input)`.

    `task_info` has the columns of the metadata, and `problem`, `question`, `ground_truth` and `data_source` where it
    does not name them. Of the output `reward` is the value; `is_correct` and the numbers of its `metadata` are metrics.

    Args:
        sample: one response.
        function: `module:attribute`.
        arguments: further keyword arguments.
    """
    one = foreign(function, arguments)
    task = {"problem": sample.prompt, "question": sample.prompt, "ground_truth": sample.answer, "data_source": ""}
    task |= sample.metadata

    def read(result: Any) -> Score:
        if not hasattr(result, "reward"):
            return _keyed_score(result, "reward", one) if isinstance(result, Mapping) else score_of(result)
        score = score_of(result.reward)
        metadata = getattr(result, "metadata", None)
        numbers = plain_numbers({**(metadata if isinstance(metadata, Mapping) else {})})
        numbers |= plain_numbers({"is_correct": getattr(result, "is_correct", None)})
        return replace(score, metrics=numbers) if score.value is not None else score

    if len(one.signature.positional) == 1:
        inputs = {"task_info": task, "action": sample.text, "model_response": sample.text, "metadata": task}
        reward_input = SimpleNamespace(**inputs, problem=sample.prompt, data_source=task["data_source"])
        return then(one.function(reward_input, **one.arguments), read)
    return then(one.function(task, sample.text, **one.arguments), read)


class Status(Enum):
    """How a response ended, by slime's names."""

    COMPLETED = "completed"
    TRUNCATED = "truncated"


def _check_slime(path: str, options: Mapping[str, Any]) -> tuple[list[Function], Scope, str]:
    one = _load(path, options, "args")
    _check_two(one, "slime", ("args", "a sample or a list of samples"))
    return [one.found], "group" if _of_many(one) else "sample", one.name


def _of_many(one: Foreign) -> bool:
    return one.signature.positional[1].endswith("s")


@adapter(_check_slime)
def slime(
    sample: Sample | list[Sample], *, function: str, args: Mapping[str, Any] | None = None, **arguments: Any
) -> Any:
    """slime and Miles: `f(args, sample) -> float | dict`, or `f(args, samples) -> list` for all responses to a prompt.

    The sample has `prompt`, `response`, `label`, `tokens` (of the response), `response_length`, `metadata`, `status`
    and `index`; it is slime's own class if slime is installed.

    Args:
        sample: one response, or all responses to a prompt.
        function: `module:attribute`. One whose second parameter ends with `s` judges all responses together.
        args: fields of `args`; `reward_key` names the value where a mapping is returned.
        arguments: further keyword arguments.
    """
    one = foreign(function, arguments)
    fields = SimpleNamespace(**{"reward_key": None, "rm_type": None, "rm_url": None, **(args or {})})

    def read(result: Any) -> Score:
        if not isinstance(result, Mapping):
            return score_of(result)
        if not fields.reward_key:
            raise ValueError(f"{one.name} returned {', '.join(map(str, result))}; name one as options.args.reward_key")
        return _keyed_score(result, fields.reward_key, one)

    if isinstance(sample, list):
        result = one.function(fields, [_slime_sample(each, i) for i, each in enumerate(sample)], **one.arguments)
        return then(result, lambda found: [read(each) for each in first_results(found, len(sample), one.name)])
    return then(one.function(fields, _slime_sample(sample, 0), **one.arguments), read)


def _slime_sample(sample: Sample, index: int) -> Any:
    ended = "TRUNCATED" if sample.truncated else "COMPLETED"
    fields: dict[str, Any] = {
        "index": index,
        "group_index": 0,
        "prompt": sample.prompt,
        "tokens": list(sample.token_ids),
        "response": sample.text,
        "response_length": sample.token_count,
        "label": sample.answer,
        "metadata": dict(sample.metadata),
    }
    for module in ("slime.utils.types", "miles.utils.types"):
        try:
            own = importlib.import_module(module).Sample
        except ImportError:
            continue
        return own(**fields, status=own.Status[ended])
    return SimpleNamespace(**fields, status=Status[ended], reward=None, Status=Status)
