"""verifiers: functions by the names of their parameters, rubrics of them, and the tasks of its version 0.4."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolpo.rewards.adapters.foreign import adapter, message
from evolpo.rewards.adapters.signatures import Function, Signature, first_results, name_of
from evolpo.rewards.base import Sample, Scope, is_coroutine_function
from evolpo.rewards.importing import import_attribute
from evolpo.rewards.service.calls import describe
from evolpo.rewards.values import Score, plain_numbers, score_of

ALONE = ("prompt", "completion", "answer", "info", "task", "state", "trace")
TOGETHER = ("prompts", "completions", "answers", "infos", "tasks", "states", "traces")
"""A function that has one of these parameters judges all responses to a prompt together."""


@dataclass(frozen=True, slots=True)
class Part:
    """A function of a rubric or a task: its value times its weight is added; weight None makes it a metric alone."""

    function: Function
    weight: float | None
    method: bool = False
    """Whether it is a method of a task, called on the task of each response."""

    @property
    def name(self) -> str:
        """Name of the function."""
        return name_of(self.function)

    @property
    def signature(self) -> Signature:
        """Of its calls, `self` left out."""
        signature = Signature.of(self.function)
        if not self.method:
            return signature
        own = signature.names[0]
        return Signature(
            signature.names[1:],
            signature.required - {own},
            signature.positional[1:],
            signature.only_positional,
            signature.catches_all,
        )

    @property
    def judges_group(self) -> bool:
        """Whether it judges all responses together."""
        return bool({*TOGETHER} & {*self.signature.names})


@dataclass(frozen=True, slots=True)
class Found:
    """What `module:attribute` names, taken apart."""

    name: str
    parts: list[Part]
    objects: Mapping[str, Any]
    """Class objects of rubrics, such as `parser`."""
    task_class: type | None


def _found(path: str) -> Found:
    try:
        found = import_attribute(path)
    except ValueError as error:
        raise ValueError(f"function: {error}") from error
    name = path.rpartition(":")[2].replace(".", "_")
    if hasattr(found, "funcs"):
        rubrics = _rubrics(found)
        parts = [Part(one, weight) for each in rubrics for one, weight in zip(each.funcs, each.weights, strict=True)]
        if not parts:
            raise ValueError(f"function: the rubric {path} has no functions")
        objects = {key: one for each in rubrics for key, one in getattr(each, "class_objects", {}).items()}
        return Found(parts[0].name if len(parts) == 1 else name, parts, objects, None)
    if isinstance(found, type):
        parts = [*_tagged(found, "reward"), *_tagged(found, "metric")]
        if not any(part.weight is not None for part in parts):
            raise ValueError(f"function: {path} is a type without methods that are marked as rewards; give a function")
        return Found(name, parts, {}, found)
    if not callable(found):
        raise ValueError(f"function: {path} is a {type(found).__name__}; give a function")
    return Found(name_of(found), [Part(found, 1.0)], {}, None)


def _rubrics(rubric: Any) -> list[Any]:
    inner = getattr(rubric, "rubrics", None)
    return [one for each in inner for one in _rubrics(each)] if inner else [rubric]


def _tagged(task_class: type, kind: str) -> list[Part]:
    """Methods that `@vf.reward` or `@vf.metric` marked; what overrides one without a mark takes it away."""
    names = {
        name for each in task_class.__mro__ for name, one in vars(each).items() if getattr(one, kind, None) is True
    }
    methods = [getattr(task_class, name) for name in sorted(names)]
    return [
        Part(one, float(getattr(one, "_vf_weight", 1.0)) if kind == "reward" else None, method=True)
        for one in methods
        if getattr(one, kind, None) is True
    ]


def _check_verifiers(path: str, options: Mapping[str, Any]) -> tuple[list[Function], Scope, str]:
    found = _found(path)
    arguments = {name: value for name, value in options.items() if name not in ("function", "conversational")}
    for part in found.parts:
        part.signature.check(part.function, [*ALONE, *TOGETHER, *found.objects], arguments, "verifiers")
    return [part.function for part in found.parts], "group", found.name


@adapter(_check_verifiers, "group")
def verifiers(samples: list[Sample], *, function: str, conversational: bool, **arguments: Any) -> Any:
    """verifiers: a function of whatever it names, a `Rubric`, or a task class whose methods are marked `@vf.reward`.

    A function may name `completion`, `answer`, `prompt`, `state`, `info` and `task`; functions with names in the plural
    (`completions`, `states` ...) judge all responses to a prompt together. Of a rubric the value is the weighted sum of
    its functions, whose own values are metrics; its class objects, such as `parser`, are given to them. Methods of a
    task class may name `task` and `trace` (`last_reply`, `completion`, `messages` ...); the task's data have `prompt`,
    `answer` and the columns of the metadata. A sandbox (`runtime`) there is not.

    Args:
        samples: the responses to one prompt.
        function: `module:attribute` of a function, a rubric, a group of rubrics or a task class.
        conversational: whether prompt and completion are messages, as in chat environments, or strings.
        arguments: further keyword arguments.
    """
    found = _found(function)
    judging = _Judging(found, samples, conversational, arguments)
    return (
        judging.waiting() if any(map(is_coroutine_function, (one.function for one in found.parts))) else judging.now()
    )


class _Judging:
    """The judgement of the responses to one prompt."""

    def __init__(
        self, found: Found, samples: Sequence[Sample], conversational: bool, arguments: Mapping[str, Any]
    ) -> None:
        self._found = found
        self._arguments = arguments
        self._tasks = [_task_of(found.task_class, sample) for sample in samples]
        self._states = [_state(sample, conversational, task) for sample, task in zip(samples, self._tasks, strict=True)]

    def now(self) -> list[Score]:
        """Scores of plain functions, which run without an event loop."""
        columns = [self._column(part, [_outcome(call) for call in self._calls(part)]) for part in self._found.parts]
        return self._scores(columns)

    async def waiting(self) -> list[Score]:
        """Scores where some functions are coroutines: all of them run together."""
        columns = await asyncio.gather(*map(self._awaited_column, self._found.parts))
        return self._scores(columns)

    async def _awaited_column(self, part: Part) -> list[Any]:
        return self._column(part, await asyncio.gather(*map(_awaited_outcome, self._calls(part))))

    def _calls(self, part: Part) -> list[Callable[[], Any]]:
        """The calls of a function: one, or one a response."""
        signature = part.signature
        given = {**self._found.objects, **self._arguments}
        if part.judges_group:
            together = {f"{name}s": [state[name] for state in self._states] for name in ALONE}
            return [lambda: part.function(**signature.accepted({**together, **given}))]

        def call(index: int) -> Callable[[], Any]:
            own = signature.accepted({**self._states[index], **given})
            task = [self._tasks[index]] if part.method else []
            return lambda: part.function(*task, **own)

        return [call(index) for index in range(len(self._states))]

    def _column(self, part: Part, outcomes: Sequence[Any]) -> list[Any]:
        """A result a response; an exception stands for itself."""
        if not part.judges_group:
            return list(outcomes)
        [outcome] = outcomes
        count = len(self._states)
        if isinstance(outcome, BaseException):
            return [outcome] * count
        return first_results(outcome, count, part.name)

    def _scores(self, columns: Iterable[Sequence[Any]]) -> list[Score]:
        return [_weighted(self._found.parts, row) for row in zip(*columns, strict=True)]


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - it fails for its own response alone
        return error


async def _awaited_outcome(call: Callable[[], Any]) -> Any:
    try:
        result = call()
        return await result if isinstance(result, Awaitable) else result
    except Exception as error:  # noqa: BLE001 - it fails for its own response alone
        return error


def _weighted(parts: Sequence[Part], results: Sequence[Any]) -> Score:
    """The weighted sum of what the functions say of one response. A mapping is several values by name."""
    total, said = 0.0, False
    metrics: dict[str, float] = {}
    for part, result in zip(parts, results, strict=True):
        if isinstance(result, BaseException):
            if part.weight is None:
                continue
            return Score.infra_error(f"{part.name}: {describe(result)}")
        if part.weight is None:
            metrics |= plain_numbers(result if isinstance(result, Mapping) else {part.name: result})
            continue
        for name, value in (result if isinstance(result, Mapping) else {part.name: result}).items():
            score = score_of(value)
            if score.unscored:
                return Score.infra_error(f"{name}: {score.error}")
            if score.value is not None:
                metrics[str(name)] = score.value
                total += part.weight * score.value
                said = True
    if not said:
        return Score(None, "skipped")
    return Score(total, metrics=metrics if len(metrics) > 1 else {})


class Record(dict[str, Any]):
    """A dictionary whose entries are attributes too, as the records of verifiers are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"there is no {name!r}; there are {', '.join(self)}") from error

    __setattr__ = dict.__setitem__


def _task_of(task_class: type | None, sample: Sample) -> Any:
    """The task a response answers: of the class, with the data it declares."""
    record = Record({"prompt": sample.prompt, "answer": sample.answer, "info": {}, "idx": 0, **sample.metadata})
    if task_class is None:
        return record
    data_type = getattr(task_class, "data_type", None)
    if data_type is None:
        return task_class(record)
    fields = getattr(data_type(), "model_fields", None)
    known = record if fields is None else {name: value for name, value in record.items() if name in fields}
    return task_class(data_type()(**known))


def _state(sample: Sample, conversational: bool, task: Any) -> Record:
    """What a verifiers environment would know of a response, by the names its functions use."""
    prompt, completion = [Record(*message("user", sample.prompt))], [Record(*message("assistant", sample.text))]
    state = Record(
        prompt=prompt if conversational else sample.prompt,
        completion=completion if conversational else sample.text,
        answer="" if sample.answer is None else sample.answer,
        info=sample.metadata.get("info", dict(sample.metadata)),
        task=sample.metadata.get("task", ""),
    )
    data = getattr(task, "data", task)
    trace = Record(
        task=data,
        prompt=prompt,
        completion=completion,
        messages=[*prompt, *completion],
        last_reply=sample.text,
        is_truncated=sample.truncated,
        ok=True,
        error=None,
        info=Record(),
        state=Record(),
        metrics=Record(),
        rewards=Record(),
    )
    if state["task"] == "":
        state["task"] = data
    return Record(state, state=state, trace=trace)
