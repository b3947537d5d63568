"""Reward functions written for other toolkits, unchanged: TRL, verl, OpenRLHF, verifiers.

    - use: evolpo.rewards.adapters:trl
      options: {function: "trl.rewards:accuracy_reward", conversational: true, answer_column: solution}

`function` is `module:attribute`; options that an adapter does not name are passed to the function as they stand. What
these toolkits turn into a reward of 0, an exception above all, is an `infra_error` here.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any, cast

import numpy as np

from evolpo.rewards.base import FunctionReward, Sample, Scope, Score
from evolpo.rewards.service.workers import describe

Function = Callable[..., Any]
GROUP_PARAMETERS = {"prompts", "completions", "answers", "states", "tasks", "infos"}
"""verifiers: a function that has one of these parameters judges all responses to a prompt together."""


class AdapterReward(FunctionReward[..., Any]):
    """The adapter of one toolkit; configured, it bears the name of the foreign function.

    Functions that wait (all of them coroutines) run in this process, many at a time; others in one that is killed at
    the deadline.
    """

    def configured(self, timeout_s: float, options: Mapping[str, Any]) -> FunctionReward[..., Any]:
        """As of any function; raises ValueError also if the foreign function is not there or refuses the options."""
        reward = super().configured(timeout_s, options)
        path: str = options["function"]
        functions = [function for function, _ in _functions(path)]
        own = inspect.signature(self.function).parameters
        arguments = {name: value for name, value in options.items() if name not in own}
        for function in functions:
            try:
                inspect.signature(function).bind_partial(**arguments)
            except TypeError as error:
                raise ValueError(f"{path} does not take these options: {error}") from error
        reward.name = _name(functions[0]) if len(functions) == 1 else path.rpartition(":")[2].replace(".", "_")
        reward.isolate = not all(map(_is_async, functions))
        # A package that imports lazily, as trl.rewards, has not imported the module of the function.
        modules = [str(_unwrapped(function).__module__) for function in functions]
        reward.preload = tuple(dict.fromkeys([path.partition(":")[0], *modules]))
        return reward


def _adapter(scope: Scope) -> Callable[[Function], AdapterReward]:
    return lambda function: AdapterReward(function, scope, isolate=True)


@_adapter("group")
async def trl(
    samples: list[Sample], *, function: str, conversational: bool, answer_column: str = "answer", **arguments: Any
) -> list[Score]:
    """TRL: `f(prompts, completions, **columns) -> list[float | None]`; None is `skipped`.

    The function gets the responses to one prompt. Its columns are the reference answer and those of the metadata.
    `completion_ids` are not given: samples carry no token ids. What it hands to `log_metric` becomes metrics, what it
    hands to `log_extra` artifacts.

    Args:
        samples: the responses to one prompt.
        function: `module:attribute`.
        conversational: whether it reads messages (`completion[0]["content"]`, as all of TRL's own do) or strings.
        answer_column: name under which it expects the reference answer; TRL's own say `solution`.
        arguments: further keyword arguments.

    Raises:
        ValueError: the function returned another number of rewards than it got completions.
    """
    metrics: dict[str, float] = {}
    extra: dict[str, Sequence[Any]] = {}
    values = await _call(
        resolve_name(function),
        **{
            answer_column: [sample.answer for sample in samples],
            **_columns(samples),
            "prompts": [_message("user", sample.prompt) if conversational else sample.prompt for sample in samples],
            "completions": [_message("assistant", one.text) if conversational else one.text for one in samples],
            "log_metric": metrics.__setitem__,
            "log_extra": extra.__setitem__,
            **arguments,
        },
    )
    if len(values) != len(samples):
        raise ValueError(f"the function returned {len(values)} rewards for {len(samples)} responses")
    artifacts = [{name: column[index] for name, column in extra.items()} for index in range(len(samples))]
    return [
        Score(None, "skipped") if value is None else Score(float(value), metrics=metrics, artifacts=artifact)
        for value, artifact in zip(values, artifacts, strict=True)
    ]


@_adapter("sample")
async def verl(sample: Sample, *, function: str, **arguments: Any) -> Score:
    """verl: `compute_score(data_source, solution_str, ground_truth, extra_info) -> float | dict` with a `score`.

    As in verl's data files, `metadata` may have `data_source`, `extra_info` and `reward_model.ground_truth`; without
    the last the reference answer is taken, without `extra_info` all of the metadata. Other numbers of the dictionary
    become metrics.

    Args:
        sample: one response.
        function: `module:attribute`.
        arguments: further keyword arguments (verl's `reward_kwargs`); may replace those above.
    """
    given = {
        "data_source": sample.metadata.get("data_source", ""),
        "solution_str": sample.text,
        "ground_truth": (sample.metadata.get("reward_model") or {}).get("ground_truth", sample.answer),
        "extra_info": sample.metadata.get("extra_info", dict(sample.metadata)),
    }
    result = await _call(resolve_name(function), **{**given, **arguments})
    if not isinstance(result, Mapping):
        return Score(float(result))
    numbers = {name: float(value) for name, value in result.items() if isinstance(value, bool | int | float)}
    return Score(float(result["score"]), metrics={name: numbers[name] for name in numbers if name != "score"})


@_adapter("group")
async def openrlhf(samples: list[Sample], *, function: str, **arguments: Any) -> list[Score]:
    """OpenRLHF: `reward_func(queries, prompts, labels) -> tensor | dict` of `rewards`, `scores` and `extra_logs`.

    A query is the prompt and the response, without chat template. `rewards` is the value; `scores` and `extra_logs`
    become metrics.

    Args:
        samples: the responses to one prompt.
        function: `module:attribute`.
        arguments: further keyword arguments.

    Raises:
        ValueError: the function returned another number of rewards than it got queries.
    """
    queries = [sample.prompt + sample.text for sample in samples]
    prompts, labels = [sample.prompt for sample in samples], [sample.answer for sample in samples]
    result = await _call(resolve_name(function), queries, prompts, labels, **arguments)
    if not isinstance(result, Mapping):
        result = {"rewards": result}
    values = _numbers(result["rewards"], len(samples))
    logs = dict(result.get("extra_logs") or {}) | ({"scores": result["scores"]} if "scores" in result else {})
    columns = {name: _numbers(column, len(samples), scalar=True) for name, column in logs.items()}
    return [
        Score(value, metrics={name: column[index] for name, column in columns.items()})
        for index, value in enumerate(values)
    ]


@_adapter("group")
async def verifiers(
    samples: list[Sample], *, function: str, conversational: bool, **arguments: Any
) -> list[Score | float]:
    """verifiers: a function of whatever it names among `completion, answer, prompt, state, info, task`, or a `Rubric`.

    Functions with names in the plural (`completions`, `states` ...) judge all responses to a prompt together. Of a
    rubric the value is the weighted sum of its functions, whose own values are metrics; its class objects, such as
    `parser`, are given to them.

    Args:
        samples: the responses to one prompt.
        function: `module:attribute` of a function, a rubric or a group of rubrics.
        conversational: whether prompt and completion are messages, as in chat environments, or strings.
        arguments: further keyword arguments.

    Raises:
        ValueError: a function of the group returned another number of values than it got completions.
    """
    states = [_state(sample, conversational) for sample in samples]
    together = {f"{name}s": [state[name] for state in states] for name in states[0]} | {"states": states}
    objects = {**_class_objects(resolve_name(function)), **arguments}
    functions = _functions(function)

    async def judged_alone(one: Function, index: int) -> float:
        return float(await _call(one, **_accepted(one, {**states[index], "state": states[index], **objects})))

    async def column(one: Function) -> Sequence[float | BaseException]:
        if _judges_group(one):
            return _numbers(await _call(one, **_accepted(one, {**together, **objects})), len(samples))
        return await asyncio.gather(*(judged_alone(one, i) for i in range(len(samples))), return_exceptions=True)

    columns = await asyncio.gather(*(column(one) for one, _ in functions))  # [function][sample]
    return [_weighted(functions, row) for row in zip(*columns, strict=True)]


def _state(sample: Sample, conversational: bool) -> dict[str, Any]:
    """What a verifiers environment would know of a response, by the names its functions use."""
    return {
        "prompt": _message("user", sample.prompt) if conversational else sample.prompt,
        "completion": _message("assistant", sample.text) if conversational else sample.text,
        "answer": sample.answer or "",
        "info": sample.metadata.get("info", dict(sample.metadata)),
        "task": sample.metadata.get("task", ""),
    }


def _weighted(functions: Iterable[tuple[Function, float]], values: Iterable[float | BaseException]) -> Score:
    total, metrics = 0.0, {}
    for (function, weight), value in zip(functions, values, strict=True):
        if isinstance(value, BaseException):
            return Score.infra_error(f"{_name(function)}: {describe(value)}")
        metrics[_name(function)] = value
        total += weight * value
    return Score(total, metrics=metrics if len(metrics) > 1 else {})


def _functions(path: str) -> list[tuple[Function, float]]:
    """Functions and weights behind `module:attribute`: one with weight 1, or all of a verifiers rubric."""
    try:
        found: Any = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"function: {path!r} is no module:attribute that can be imported: {error}") from error
    if hasattr(found, "funcs"):
        pairs = [pair for one in _rubrics(found) for pair in zip(one.funcs, one.weights, strict=True)]
        if not pairs:
            raise ValueError(f"function: the rubric {path} has no functions")
        return pairs
    if not callable(found) or isinstance(found, type):
        raise ValueError(f"function: {path} is a {type(found).__name__}; give a function")
    return [(found, 1.0)]


def _rubrics(rubric: Any) -> list[Any]:
    inner = getattr(rubric, "rubrics", None)
    return [one for each in inner for one in _rubrics(each)] if inner else [rubric]


def _class_objects(found: Any) -> dict[str, Any]:
    if not hasattr(found, "funcs"):
        return {}
    return {name: one for rubric in _rubrics(found) for name, one in getattr(rubric, "class_objects", {}).items()}


def _judges_group(function: Function) -> bool:
    return bool(GROUP_PARAMETERS & set(inspect.signature(function).parameters))


def _accepted(function: Function, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments that the function names, or all if it takes any."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(arguments)
    return {name: value for name, value in arguments.items() if name in parameters}


def _columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for sample in samples for name in sample.metadata)
    return {name: [sample.metadata.get(name) for sample in samples] for name in names}


def _message(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def _numbers(values: Any, count: int, scalar: bool = False) -> list[float]:
    """A number a sample, from a tensor, an array or a list; `scalar`: one number may stand for all."""
    flat = np.asarray(values.tolist() if hasattr(values, "tolist") else values, dtype=float).reshape(-1)
    if scalar and flat.size == 1:
        flat = flat.repeat(count)
    if flat.size != count:
        raise ValueError(f"the function returned {flat.size} numbers for {count} responses")
    return cast("list[float]", flat.tolist())


async def _call(function: Function, *args: Any, **kwargs: Any) -> Any:
    result = function(*args, **kwargs)
    return await result if isinstance(result, Awaitable) else result


def _unwrapped(function: Function) -> Function:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _name(function: Function) -> str:
    function = _unwrapped(function)
    return str(getattr(function, "__name__", type(function).__name__))


def _is_async(function: Function) -> bool:
    function = _unwrapped(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
