"""What a reward is: samples in, scores out, and two decorators that make one from a plain function."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload, runtime_checkable

from evolpo.rewards.options import fitting_options
from evolpo.rewards.service.threads import call_in_thread
from evolpo.rewards.service.workers import Outcome, Target, describe, shared_pool, worker_count
from evolpo.rewards.values import Score, Status, group_results, score_of
from evolpo.rl.data import Answer, Prompt, Response

__all__ = [
    "FunctionReward",
    "Reward",
    "Sample",
    "Scope",
    "Score",
    "Status",
    "group_reward",
    "sample_reward",
]

Scope = Literal["sample", "group"]

DEFAULT_TIMEOUT_S = 10.0
"""Seconds a function may take where neither the decorator nor the stack says otherwise."""
COLD_TIMEOUT_S = 30.0
"""Seconds that the first call in a fresh process may take where nothing says otherwise."""
MAX_CONCURRENT = 64
"""Coroutines of one reward that run at the same time; the clock of the others has not started."""
PIECE_S = 0.1
"""Calls of a plain function are handed to workers in pieces of about this many seconds."""
FIRST_PIECE = 4
"""Calls in a piece while nobody knows how long one takes."""


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
    token_ids: tuple[int, ...] = ()
    """The response as sampled; empty if only its text is known."""

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
            token_ids=tuple(response.token_ids),
        )


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
SampleResult = TypeVar("SampleResult", bound=float | Score | Coroutine[Any, Any, float | Score | None] | None)
GroupResult = TypeVar("GroupResult", bound=Sequence[Any] | Coroutine[Any, Any, Sequence[Any]])


class FunctionReward(Generic[P, R]):
    """A function as a `Reward`; called like a function, it is still the plain function.

    Where it runs is the same for everybody who asks. A function that another process can import runs in a worker
    process, in its main thread; a coroutine beside the other calls of the same coroutine, in an event loop of their
    own. What only this process has (closures, notebooks, `__main__`) runs here: functions in a thread, coroutines in
    the event loop of the caller.
    """

    def __init__(
        self,
        function: Callable[P, R],
        scope: Scope,
        *,
        timeout_s: float | None = None,
        cold_timeout_s: float | None = None,
        isolate: bool | None = None,
        preload: Sequence[str] = (),
        resource: str | None = None,
        options: Mapping[str, Any] | None = None,
        home: str = "",
    ) -> None:
        if not callable(function):
            raise TypeError(f"a {type(function).__name__} is no function that could be a reward")
        functools.update_wrapper(self, function)
        self.function = function
        self.name = _name(function)
        self.scope: Scope = scope
        self.timeout_s = timeout_s
        self.cold_timeout_s = cold_timeout_s
        self.isolate = isolate
        self.preload = tuple(preload)
        self.resource = resource
        self.options = dict(options or {})
        self.home = home
        """Module that made the reward."""
        self.origin: FunctionReward[P, R] = self
        """The reward that this one is a configured copy of."""
        self._call_s: float | None = None
        """Seconds of a call lately."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function."""
        return self.function(*args, **kwargs)

    @property
    def coroutine(self) -> bool:
        """Whether the function is one of coroutines."""
        return is_coroutine_function(self.function)

    @functools.cached_property
    def target(self) -> Target | None:
        """The function as a worker finds it; None if it runs in this process.

        Raises ValueError if `isolate` is set and no other process could import it.
        """
        if self.isolate is False:
            return None
        try:
            return Target.of(self.function, self.preload, self.origin)
        except ValueError as error:
            if self.isolate:
                raise ValueError(f"isolate=True cannot run {error}") from error
            return None

    def configured(
        self, timeout_s: float, options: Mapping[str, Any], cold_timeout_s: float = COLD_TIMEOUT_S
    ) -> FunctionReward[P, R]:
        """A copy with keyword arguments for the function and with deadlines, unless the decorator gave them.

        Raises ValueError if the function does not take these arguments, or cannot be isolated as it asks.
        """
        taken = fitting_options(self.function, options, self.name, first=1)
        copy = type(self)(
            self.function,
            self.scope,
            timeout_s=self.timeout_s or timeout_s,
            cold_timeout_s=self.cold_timeout_s or cold_timeout_s,
            isolate=self.isolate,
            preload=self.preload,
            resource=self.resource,
            options={**self.options, **taken},
            home=self.home,
        )
        copy.origin = self.origin
        copy.target  # noqa: B018 - raises what is to be raised
        return copy

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Judge the samples. No exception, wrong result or hang of the function ever becomes a value.

        Raises ValueError if an isolated function cannot be imported by another process.
        """
        if not samples:
            return []
        if self.scope == "group":
            [outcome] = await self._outcomes([list(samples)])
            return _group_scores(outcome, len(samples), self.name)
        return [_score_of(outcome, self.name) for outcome in await self._outcomes(samples)]

    async def _outcomes(self, arguments: Sequence[Any]) -> list[Outcome]:
        timeout_s = self.timeout_s or DEFAULT_TIMEOUT_S
        if self.target is not None:
            cold_timeout_s = max(timeout_s, self.cold_timeout_s or COLD_TIMEOUT_S)
            if self.coroutine:
                return await self._coroutine_outcomes(self.target, arguments, timeout_s, cold_timeout_s)
            return await self._worker_outcomes(self.target, arguments, timeout_s, cold_timeout_s)
        if self.coroutine:
            slots = asyncio.Semaphore(MAX_CONCURRENT)
            return list(await asyncio.gather(*(self._run_coroutine(one, timeout_s, slots) for one in arguments)))
        return await call_in_thread(self.function, arguments, self.options, timeout_s)

    async def _worker_outcomes(
        self, target: Target, arguments: Sequence[Any], timeout_s: float, cold_timeout_s: float
    ) -> list[Outcome]:
        size = FIRST_PIECE if self._call_s is None else max(1, int(PIECE_S / max(self._call_s, 1e-6)))
        size = min(size, math.ceil(len(arguments) / worker_count()))
        futures = [
            shared_pool().submit(
                target,
                arguments[start : start + size],
                self.options,
                timeout_s,
                scope=self.scope,
                cold_timeout_s=cold_timeout_s,
            )
            for start in range(0, len(arguments), size)
        ]
        pieces = await asyncio.gather(*map(asyncio.wrap_future, futures))
        outcomes = [outcome for piece in pieces for outcome in piece]
        self._call_s = sum(outcome.elapsed_s for outcome in outcomes) / len(outcomes)
        return outcomes

    async def _coroutine_outcomes(
        self, target: Target, arguments: Sequence[Any], timeout_s: float, cold_timeout_s: float
    ) -> list[Outcome]:
        slots = asyncio.Semaphore(MAX_CONCURRENT)

        async def outcome(argument: Any) -> Outcome:
            async with slots:
                future = shared_pool().submit_coroutine(
                    target, argument, self.options, timeout_s, scope=self.scope, cold_timeout_s=cold_timeout_s
                )
                return await asyncio.wrap_future(future)

        return list(await asyncio.gather(*map(outcome, arguments)))

    async def _run_coroutine(self, argument: Any, timeout_s: float, slots: asyncio.Semaphore) -> Outcome:
        function: Callable[..., Any] = self.function
        async with slots:
            return await finished_within(lambda: function(argument, **self.options), timeout_s, self.name)


async def finished_within(start: Callable[[], Any], timeout_s: float, name: str) -> Outcome:
    """What becomes of a reward's coroutine in this event loop. After its deadline nobody waits for it."""

    async def guarded() -> Outcome:
        started = time.perf_counter()
        try:
            value = await start()
            return Outcome("returned", value, elapsed_s=time.perf_counter() - started)
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything; it becomes a status
            return Outcome("raised", error=describe(error), elapsed_s=time.perf_counter() - started)

    task = asyncio.create_task(guarded(), name=name)
    _running.add(task)
    task.add_done_callback(_running.discard)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if task.done() and not task.cancelled() and task.result().elapsed_s <= timeout_s:
        return task.result()
    task.cancel()
    return Outcome("timeout", error=f"no result within {timeout_s:g} s", elapsed_s=timeout_s)


_running: set[asyncio.Task[Outcome]] = set()
"""Tasks that nobody may wait for any more; the event loop alone would forget them."""


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: of functions, partials and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _name(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _score_of(outcome: Outcome, name: str) -> Score:
    """The score of one call; a failed call is never a value."""
    if outcome.kind == "timeout":
        return Score(None, "timeout", artifacts={"error": f"{outcome.error} from {name}"}, elapsed_s=outcome.elapsed_s)
    if outcome.kind != "returned":
        return Score.infra_error(outcome.error, outcome.elapsed_s)
    score = score_of(outcome.value)
    return replace(score, elapsed_s=score.elapsed_s or outcome.elapsed_s)


def _group_scores(outcome: Outcome, count: int, name: str) -> list[Score]:
    """The scores of one call with a group: all fail together, unless it returned one result a sample."""
    elapsed_s = outcome.elapsed_s / count
    if outcome.kind != "returned":
        return [_score_of(replace(outcome, elapsed_s=elapsed_s), name)] * count
    try:
        scores = group_results(outcome.value)
    except Exception as error:  # noqa: BLE001 - iterating runs the plugin's own classes
        return [Score.infra_error(f"{name} {error}", elapsed_s)] * count
    if len(scores) != count:
        wrong = f"{name} returned {len(scores)} results: a group of {count} needs a list of {count}"
        return [Score.infra_error(wrong, elapsed_s)] * count
    return [replace(score, elapsed_s=score.elapsed_s or elapsed_s) for score in scores]


def _caller() -> str:
    """The module that uses a decorator of this one."""
    frame = sys._getframe(2)
    return str(frame.f_globals.get("__name__", ""))


@overload
def sample_reward(
    function: Callable[Concatenate[Sample, P], SampleResult], /
) -> FunctionReward[Concatenate[Sample, P], SampleResult]: ...
@overload
def sample_reward(
    *,
    timeout_s: float | None = None,
    cold_timeout_s: float | None = None,
    isolate: bool | None = None,
    preload: Sequence[str] = (),
    resource: str | None = None,
) -> Callable[
    [Callable[Concatenate[Sample, P], SampleResult]], FunctionReward[Concatenate[Sample, P], SampleResult]
]: ...
def sample_reward(function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """Make a reward from a function of one `Sample` that returns a number, None or a `Score`; async or not.

    None means "not mine": the reward has nothing to say about this response, which is then neither 0 nor an error.
    Partials and callable objects are functions too. Further keyword arguments are filled from its `options`.

    Args:
        function: the function, if the decorator is used without parentheses.
        timeout_s: deadline of a call in seconds; None takes the stack's.
        cold_timeout_s: deadline of the first call in a fresh process, which may load a model; None takes the stack's.
        isolate: None runs the function in a worker process if it can be imported there, else in this one; True
            refuses what cannot be imported; False keeps the function in this process.
        preload: modules that the function imports where it uses them; workers load them before its clock starts.
        resource: name of the service's resource it competes for; None leaves that to the kind of function.
    """
    settings["home"] = _caller()
    if function is None:
        return lambda function: FunctionReward(function, "sample", **settings)
    return FunctionReward(function, "sample", **settings)


@overload
def group_reward(
    function: Callable[Concatenate[list[Sample], P], GroupResult], /
) -> FunctionReward[Concatenate[list[Sample], P], GroupResult]: ...
@overload
def group_reward(
    *,
    timeout_s: float | None = None,
    cold_timeout_s: float | None = None,
    isolate: bool | None = None,
    preload: Sequence[str] = (),
    resource: str | None = None,
) -> Callable[
    [Callable[Concatenate[list[Sample], P], GroupResult]], FunctionReward[Concatenate[list[Sample], P], GroupResult]
]: ...
def group_reward(function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """Make a reward from a function of all responses to one prompt that returns a list, one result a response.

    The settings are those of `sample_reward`; the deadline is that of the whole group.
    """
    settings["home"] = _caller()
    if function is None:
        return lambda function: FunctionReward(function, "group", **settings)
    return FunctionReward(function, "group", **settings)
