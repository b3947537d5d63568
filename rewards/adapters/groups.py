"""TRL and OpenRLHF: functions of all responses to a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evolpo.rewards.adapters.foreign import adapter, foreign, load_foreign, message, then, token_ids
from evolpo.rewards.adapters.signatures import Function, first_results
from evolpo.rewards.base import Sample, Scope
from evolpo.rewards.values import Score, plain_numbers, score_of

NOT_GIVEN = {"trainer_state": "the state of TRL's trainer", "environments": "TRL's environments"}
IDS = ("completion_ids", "response_token_ids")


def _options(options: Mapping[str, Any], *own: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("function", *own)}


def _check_trl(path: str, options: Mapping[str, Any]) -> tuple[list[Function], Scope, str]:
    one = load_foreign(path, _options(options, "conversational", "answer_column"))
    for name in one.signature.required & NOT_GIVEN.keys() - one.arguments.keys():
        raise ValueError(f"function: {one.name} needs {name!r}, {NOT_GIVEN[name]}, which there is not in evolpo")
    # Whatever else it names can be a column of the data.
    one.signature.check(one.found, [*one.signature.names], one.arguments, "trl")
    return [one.found], "group", one.name


@adapter(_check_trl, "group")
def trl(
    samples: list[Sample], *, function: str, conversational: bool, answer_column: str = "answer", **arguments: Any
) -> Any:
    """TRL: `f(prompts, completions, **columns) -> list[float | None]`; None is "not mine".

    The function gets the responses to one prompt. It is passed what it names, or everything if it has `**kwargs`:
    `prompts`, `completions`, `completion_ids` (also as `response_token_ids`), the reference answer, the columns of the
    metadata, `log_metric` and `log_extra`. What it hands to these becomes metrics and artifacts.

    Args:
        samples: the responses to one prompt.
        function: `module:attribute`.
        conversational: whether it reads messages (`completion[0]["content"]`, as all of TRL's own do) or strings.
        answer_column: name under which it expects the reference answer; TRL's own say `solution`. It goes before a
            column of that name in the data, unless the data have no answers.
        arguments: further keyword arguments; they go before columns of the data.

    Raises:
        ValueError: a column is missing, or the function returned another number of rewards than it got completions.
    """
    one = foreign(function, arguments)
    metrics: dict[str, Any] = {}
    extra: dict[str, Sequence[Any]] = {}
    answers = [sample.answer for sample in samples]
    given = _columns(samples)
    if answer_column not in given or any(answer is not None for answer in answers):
        given[answer_column] = answers
    given |= dict(one.arguments)
    given |= {
        "prompts": [message("user", sample.prompt) if conversational else sample.prompt for sample in samples],
        "completions": [message("assistant", one.text) if conversational else one.text for one in samples],
        "log_metric": metrics.__setitem__,
        "log_extra": extra.__setitem__,
    }
    wanted = [name for name in IDS if name in one.signature.names]
    if wanted or (one.signature.catches_all and all(sample.token_ids for sample in samples)):
        given |= dict.fromkeys(wanted or IDS[:1], token_ids(samples, one.name))
    if lacking := [name for name in one.signature.names if name in one.signature.required and name not in given]:
        raise ValueError(f"{one.name} needs the column {lacking[0]!r}; there are {', '.join(given)}")

    def read(values: Any) -> list[Score]:
        results = first_results(values, len(samples), one.name)
        artifacts = [{name: column[index] for name, column in extra.items()} for index in range(len(samples))]
        numbers = plain_numbers(metrics)
        scores = [score_of(value) for value in results]
        return [
            replace(score, metrics=numbers, artifacts={**artifact, **score.artifacts})
            if score.value is not None
            else score
            for score, artifact in zip(scores, artifacts, strict=True)
        ]

    return then(one.function(**one.signature.accepted(given)), read)


def _columns(samples: Sequence[Sample]) -> dict[str, Any]:
    names = dict.fromkeys(name for sample in samples for name in sample.metadata)
    return {name: [sample.metadata.get(name) for sample in samples] for name in names}


def _check_openrlhf(path: str, options: Mapping[str, Any]) -> tuple[list[Function], Scope, str]:
    one = load_foreign(path, _options(options))
    if len(one.signature.positional) > 3:
        raise ValueError(
            f"function: {one.name} needs {', '.join(one.signature.positional)}; openrlhf passes three lists"
        )
    one.signature.check(
        one.found, [*one.signature.positional, "queries", "prompts", "labels"], one.arguments, "openrlhf"
    )
    return [one.found], "group", one.name


@adapter(_check_openrlhf, "group")
def openrlhf(samples: list[Sample], *, function: str, **arguments: Any) -> Any:
    """OpenRLHF: `reward_func(queries, prompts, labels) -> tensor | dict` of `rewards`, `scores` and `extra_logs`.

    A query is the prompt and the response, without chat template. `rewards` is the value; `scores` and `extra_logs`
    become metrics.

    Args:
        samples: the responses to one prompt.
        function: `module:attribute`.
        arguments: further keyword arguments.

    Raises:
        ValueError: the function returned another number of rewards than it got queries, or a mapping without rewards.
    """
    one = foreign(function, arguments)
    queries = [sample.prompt + sample.text for sample in samples]
    prompts, labels = [sample.prompt for sample in samples], [sample.answer for sample in samples]

    def read(result: Any) -> list[Score]:
        if not isinstance(result, Mapping):
            result = {"rewards": result}
        if "rewards" not in result:
            raise ValueError(f"{one.name} returned {', '.join(map(str, result))} and no rewards")
        values = first_results(_flat(result["rewards"]), len(samples), one.name)
        logs = dict(result.get("extra_logs") or {}) | ({"scores": result["scores"]} if "scores" in result else {})
        columns = {name: _spread(column, len(samples), one.name) for name, column in logs.items()}
        scores = [score_of(value) for value in values]
        return [
            replace(score, metrics=plain_numbers({name: column[index] for name, column in columns.items()}))
            for index, score in enumerate(scores)
        ]

    count = max(len(one.signature.positional), min(3, len(one.signature.names)))
    return then(one.function(*(queries, prompts, labels)[:count], **one.arguments), read)


def _flat(values: Any) -> Any:
    """A tensor or array of any shape as a list."""
    return values.reshape(-1) if hasattr(values, "reshape") else values


def _spread(column: Any, count: int, name: str) -> list[Any]:
    """A value a response; one value stands for all."""
    flat = _flat(column)
    flat = flat.tolist() if hasattr(flat, "tolist") else flat
    if not isinstance(flat, list | tuple):
        flat = [flat]
    return list(flat) * count if len(flat) == 1 else first_results(flat, count, name)
