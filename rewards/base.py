"""What a reward is: samples in, scores out, and two decorators that make one from a plain function."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    SupportsFloat,
    TypeVar,
    get_args,
    overload,
    runtime_checkable,
)

from evolpo.rewards.service.workers import Outcome, Target, describe, shared_pool
from evolpo.rl.data import Answer, Prompt, Response

Status = Literal["ok", "model_fail", "infra_error", "timeout", "skipped"]
Scope = Literal["sample", "group"]

DEFAULT_TIMEOUT_S = 10.0
"""Seconds a function may take where neither the decorator nor the stack says otherwise."""
MAX_CONCURRENT = 64
"""Coroutines of one reward that run at the same time; the clock of the others has not started."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One response, with everything a reward may look at."""

    prompt: str
    """The problem as the user would write it."""
    text: str
    """The response, special tokens left out."""
    answer: Answer
    """The reference answer with the type that the data give it, None if they have none; see `answer_texts`."""
    difficulty: str
    """Name of the difficulty level, empty if the data has none."""
    metadata: Mapping[str, Any]
    """Everything else the data source gave."""
    token_count: int
    """Length of the response in tokens, the end-of-sequence token included."""
    truncated: bool
    """Whether the response was cut off at the token budget."""

    @classmethod
    def of(cls, prompt: Prompt, response: Response) -> Sample:
        """The sample of one response to one prompt."""
        return cls(
            prompt=prompt.text,
            text=response.text,
            answer=prompt.answer,
            difficulty=prompt.difficulty,
            metadata=prompt.metadata,
            token_count=len(response.token_ids),
            truncated=response.truncated,
        )


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward says about one response. Raises ValueError if value and status contradict each other."""

    value: float | None
    """Finite for `ok`, 0 for `model_fail`, None for every other status."""
    status: Status = "ok"
    """`ok`; `model_fail`: the response is bad; `infra_error`, `timeout`: our fault; `skipped`: a gate was closed."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers to log beside the value; the stack logs their means."""
    artifacts: Mapping[str, Any] = field(default_factory=dict)
    """Anything worth keeping for a person to look at; `error` is the reason for a status that is not `ok`."""
    elapsed_s: float = 0.0
    """Seconds the reward worked on this response, waiting in queues left out."""

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"Score.status {self.status!r} is none of {', '.join(get_args(Status))}")
        if self.status == "ok" and (self.value is None or not math.isfinite(self.value)):
            raise ValueError(f"Score.value {self.value} with status ok: give a finite number")
        if self.status == "model_fail" and self.value != 0.0:
            raise ValueError(f"Score.value {self.value} with status model_fail: give 0.0")
        if self.status in ("infra_error", "timeout", "skipped") and self.value is not None:
            raise ValueError(f"Score.value {self.value} with status {self.status}: give None")

    @property
    def unscored(self) -> bool:
        """Whether the response got no score through our own fault."""
        return self.status in ("infra_error", "timeout")

    @property
    def error(self) -> str:
        """Why the status is not `ok`, empty if nothing was said."""
        return str(self.artifacts.get("error", ""))

    @classmethod
    def model_fail(cls, reason: str) -> Score:
        """The response is bad in a way that leaves nothing to judge: value 0, and why."""
        return cls(0.0, "model_fail", artifacts={"error": reason})

    @classmethod
    def infra_error(cls, error: str, elapsed_s: float = 0.0) -> Score:
        """The reward itself went wrong: no value, and why."""
        return cls(None, "infra_error", artifacts={"error": error}, elapsed_s=elapsed_s)


@runtime_checkable
class Reward(Protocol):
    """The protocol of a reward plugin; `sample_reward` and `group_reward` make one from a function.

    An object written by hand keeps its own deadlines. What `score` raises becomes `infra_error` for all its samples.
    """

    @property
    def name(self) -> str:
        """Name in metrics and breakdowns."""
        ...

    @property
    def scope(self) -> Scope:
        """`sample`: samples are judged one by one; `group`: a call gets exactly the responses of one prompt."""
        ...

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Judge the samples: one score each, in their order."""
        ...


P = ParamSpec("P")
R = TypeVar("R")
SampleResult = TypeVar("SampleResult", bound=float | Score | Coroutine[Any, Any, float | Score])
GroupResult = TypeVar(
    "GroupResult", bound=Sequence[float | Score] | Coroutine[Any, Any, Sequence[float] | Sequence[Score]]
)


class FunctionReward(Generic[P, R]):
    """A function as a `Reward`; called like a function, it is still the plain function."""

    def __init__(
        self,
        function: Callable[P, R],
        scope: Scope,
        *,
        timeout_s: float | None = None,
        isolate: bool = False,
        preload: Sequence[str] = (),
        resource: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = function.__name__
        self.scope: Scope = scope
        self.timeout_s = timeout_s
        self.isolate = isolate
        self.preload = tuple(preload)
        self.resource = resource
        self.options = dict(options or {})

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function."""
        return self.function(*args, **kwargs)

    def configured(self, timeout_s: float, options: Mapping[str, Any]) -> FunctionReward[P, R]:
        """A copy with keyword arguments for the function and with a deadline, unless the decorator gave one.

        Raises ValueError if the function does not take these arguments, or cannot be isolated as it asks.
        """
        try:
            inspect.signature(self.function).bind(None, **options)
        except TypeError as error:
            raise ValueError(f"the function {self.name} does not take these options: {error}") from error
        if self.isolate:
            Target.of(self.function)
        return FunctionReward(
            self.function,
            self.scope,
            timeout_s=self.timeout_s or timeout_s,
            isolate=self.isolate,
            preload=self.preload,
            resource=self.resource,
            options={**self.options, **options},
        )

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Judge the samples. No exception, wrong result or hang of the function ever becomes a value.

        Coroutines and isolated functions end at their deadline; a plain function is called directly and is trusted
        to return. Raises ValueError if an isolated function cannot be imported by another process.
        """
        if not samples:
            return []
        if self.scope == "group":
            [outcome] = await self._outcomes([list(samples)])
            return _group_scores(outcome, len(samples))
        return [_sample_score(outcome) for outcome in await self._outcomes(samples)]

    async def _outcomes(self, arguments: Sequence[Any]) -> list[Outcome]:
        timeout_s = self.timeout_s or DEFAULT_TIMEOUT_S
        if self.isolate:
            target, pool = Target.of(self.function, self.preload), shared_pool()
            futures = [pool.submit(target, (argument,), self.options, timeout_s) for argument in arguments]
            return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
        if inspect.iscoroutinefunction(self.function):
            slots = asyncio.Semaphore(MAX_CONCURRENT)
            return list(await asyncio.gather(*(self._run_coroutine(one, timeout_s, slots) for one in arguments)))
        outcomes = []
        for argument in arguments:
            outcomes.append(self._run_plain(argument))
            await asyncio.sleep(0)  # Or coroutines of other rewards would miss their deadlines behind this loop.
        return outcomes

    async def _run_coroutine(self, argument: Any, timeout_s: float, slots: asyncio.Semaphore) -> Outcome:
        function: Callable[..., Any] = self.function
        async with slots:
            started = time.perf_counter()
            try:
                async with asyncio.timeout(timeout_s) as deadline:
                    value = await function(argument, **self.options)
                return Outcome("returned", value, elapsed_s=time.perf_counter() - started)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; it becomes infra_error
                elapsed_s = time.perf_counter() - started
                if deadline.expired():
                    return Outcome("timeout", error=f"no result within {timeout_s:g} s", elapsed_s=elapsed_s)
                return Outcome("raised", error=describe(error), elapsed_s=elapsed_s)

    def _run_plain(self, argument: Any) -> Outcome:
        function: Callable[..., Any] = self.function
        started = time.perf_counter()
        try:
            value = function(argument, **self.options)
            return Outcome("returned", value, elapsed_s=time.perf_counter() - started)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; it becomes infra_error
            return Outcome("raised", error=describe(error), elapsed_s=time.perf_counter() - started)


def _sample_score(outcome: Outcome) -> Score:
    """The score of one call: a failed call, a number that is not finite or a wrong type is never a value."""
    if outcome.kind == "timeout":
        return Score(None, "timeout", artifacts={"error": outcome.error}, elapsed_s=outcome.elapsed_s)
    if outcome.kind != "returned":
        return Score.infra_error(outcome.error, outcome.elapsed_s)
    if isinstance(outcome.value, Score):
        return replace(outcome.value, elapsed_s=outcome.value.elapsed_s or outcome.elapsed_s)
    if not isinstance(outcome.value, SupportsFloat):
        error = f"returned {type(outcome.value).__name__}: a reward returns a float, a bool or a Score"
        return Score.infra_error(error, outcome.elapsed_s)
    try:
        return Score(float(outcome.value), elapsed_s=outcome.elapsed_s)
    except (TypeError, ValueError, OverflowError) as error:
        return Score.infra_error(f"returned {outcome.value!r}: {error}", outcome.elapsed_s)


def _group_scores(outcome: Outcome, count: int) -> list[Score]:
    """The scores of one call with a group: all fail together, unless it returned one result a sample."""
    elapsed_s = outcome.elapsed_s / count
    if outcome.kind != "returned":
        return [_sample_score(replace(outcome, elapsed_s=elapsed_s))] * count
    if not isinstance(outcome.value, list | tuple) or len(outcome.value) != count:
        found = f"{len(outcome.value)} results" if isinstance(outcome.value, list | tuple) else repr(outcome.value)
        return [Score.infra_error(f"returned {found}: a group of {count} needs a list of {count}", elapsed_s)] * count
    return [_sample_score(Outcome("returned", value, elapsed_s=elapsed_s)) for value in outcome.value]


@overload
def sample_reward(
    function: Callable[Concatenate[Sample, P], SampleResult], /
) -> FunctionReward[Concatenate[Sample, P], SampleResult]: ...
@overload
def sample_reward(
    *,
    timeout_s: float | None = None,
    isolate: bool = False,
    preload: Sequence[str] = (),
    resource: str | None = None,
) -> Callable[
    [Callable[Concatenate[Sample, P], SampleResult]], FunctionReward[Concatenate[Sample, P], SampleResult]
]: ...
def sample_reward(function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """Make a reward from a function of one `Sample` that returns a float, a bool or a `Score`; async or not.

    Further keyword arguments of the function are filled from `options` of its component.

    Args:
        function: the function, if the decorator is used without parentheses.
        timeout_s: deadline of a call in seconds; None takes the stack's. A plain function that is not isolated cannot
            be stopped, so it has none.
        isolate: run the function in a process that is killed at the deadline: for code that may hang or crash.
        preload: modules that an isolated function imports itself; they are loaded before its clock starts.
        resource: name of the service's resource it competes for; None leaves that to the kind of function.
    """
    if function is None:
        return lambda function: FunctionReward(function, "sample", **settings)
    return FunctionReward(function, "sample")


@overload
def group_reward(
    function: Callable[Concatenate[list[Sample], P], GroupResult], /
) -> FunctionReward[Concatenate[list[Sample], P], GroupResult]: ...
@overload
def group_reward(
    *,
    timeout_s: float | None = None,
    isolate: bool = False,
    preload: Sequence[str] = (),
    resource: str | None = None,
) -> Callable[
    [Callable[Concatenate[list[Sample], P], GroupResult]], FunctionReward[Concatenate[list[Sample], P], GroupResult]
]: ...
def group_reward(function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """Make a reward from a function of all responses to one prompt that returns a list, one result a response.

    The settings are those of `sample_reward`; the deadline is that of the whole group.
    """
    if function is None:
        return lambda function: FunctionReward(function, "group", **settings)
    return FunctionReward(function, "group")
