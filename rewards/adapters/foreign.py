"""A foreign reward function as a reward of ours: found, checked and made when it is loaded, called in a worker."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolpo.rewards.adapters.signatures import Function, Signature, name_of, unwrapped
from evolpo.rewards.base import COLD_TIMEOUT_S, FunctionReward, Sample, Scope, is_coroutine_function
from evolpo.rewards.importing import import_attribute
from evolpo.rewards.options import fitting_options


@dataclass(frozen=True)
class Foreign:
    """A function of another toolkit, and what the configuration passes to it."""

    path: str
    found: Any
    """What `module:attribute` names."""
    arguments: Mapping[str, Any]
    """Keyword arguments of every call."""
    constructor: Mapping[str, Any]
    """Keyword arguments of the constructor, if it is a class."""

    @property
    def name(self) -> str:
        """Name of the function or the class."""
        return name_of(self.found)

    @functools.cached_property
    def signature(self) -> Signature:
        """Of its calls."""
        if isinstance(self.found, type):
            return Signature.of(functools.partial(self.found.__call__, None))
        return Signature.of(self.found)

    @functools.cached_property
    def function(self) -> Function:
        """The function itself; an object of a class is made here, once in a process."""
        made: Function = self.found(**self.constructor) if isinstance(self.found, type) else self.found
        return made


def load_foreign(path: str, options: Mapping[str, Any]) -> Foreign:
    """Find a foreign function.

    Args:
        path: `module:attribute`.
        options: all that is to be passed to it. What the constructor of a class names goes there, the rest to calls.

    Raises:
        ValueError: it cannot be imported, is no function, or its constructor needs something else.
    """
    try:
        found = import_attribute(path)
    except ValueError as error:
        raise ValueError(f"function: {error}") from error
    if isinstance(found, FunctionReward):
        raise ValueError(f"function: {path} is a reward of evolpo; use it without an adapter")
    if not callable(found):
        raise ValueError(f"function: {path} is a {type(found).__name__}; give a function")
    if not isinstance(found, type):
        return Foreign(path, found, dict(options), {})
    if not callable(getattr(found, "__call__", None)) or "__call__" not in dir(found):  # noqa: B004
        raise ValueError(f"function: objects of {path} cannot be called")
    names = set(inspect.signature(found).parameters)
    own = {name: value for name, value in options.items() if name in names}
    try:
        constructor = fitting_options(found, own, found.__name__)
    except ValueError as error:
        raise ValueError(f"function: {path} cannot be made: {error}") from error
    return Foreign(path, found, {name: options[name] for name in options if name not in own}, constructor)


@functools.lru_cache(maxsize=256)
def _kept(path: str, options: str) -> dict[str, Foreign]:
    return {}


def foreign(path: str, options: Mapping[str, Any]) -> Foreign:
    """As `load_foreign`, once in a process for the same options, so that an object keeps what it has loaded."""
    kept = _kept(path, repr(sorted(options.items())))
    if "" not in kept:
        kept[""] = load_foreign(path, options)
    return kept[""]


Check = Callable[[str, Mapping[str, Any]], tuple[list[Function], Scope, str]]
"""From path and options to the functions behind them, the scope and a name; raises ValueError for what cannot run."""


class AdapterReward(FunctionReward[..., Any]):
    """The adapter of one toolkit; configured, it bears the name of the foreign function."""

    check: Check

    def configured(
        self, timeout_s: float, options: Mapping[str, Any], cold_timeout_s: float = COLD_TIMEOUT_S
    ) -> AdapterReward:
        """As of any function; raises ValueError also if the foreign function is not there or cannot be called."""
        path: str = fitting_options(self.function, options, self.name, first=1)["function"]
        functions, scope, name = self.check(path, options)
        modules = [str(getattr(unwrapped(one), "__module__", None) or type(one).__module__) for one in functions]
        self_contained = "__main__" not in modules
        reward = AdapterReward(
            self.function,
            scope,
            isolate=None if self_contained else False,
            # A package that imports lazily, as trl.rewards, has not imported the module of the function.
            preload=tuple(dict.fromkeys([path.partition(":")[0], *modules])) if self_contained else (),
            home=self.home,
        )
        reward.check = self.check
        reward.origin = self.origin
        reward.waits = any(map(is_coroutine_function, map(_called, functions)))
        copy = FunctionReward.configured(reward, timeout_s, options, cold_timeout_s)
        assert isinstance(copy, AdapterReward)
        copy.check, copy.waits, copy.name = self.check, reward.waits, name
        return copy

    waits: bool = False
    """Whether the foreign function is a coroutine."""

    @property
    def coroutine(self) -> bool:
        """Whether the foreign function is a coroutine."""
        return self.waits


def _called(function: Function) -> Function:
    return function.__call__ if isinstance(function, type) else function


def adapter(check: Check, scope: Scope = "sample") -> Callable[[Function], AdapterReward]:
    """Make an adapter from the function that calls a foreign one and reads its result."""

    def made(function: Function) -> AdapterReward:
        reward = AdapterReward(function, scope, home=function.__module__)
        reward.check = check
        return reward

    return made


def then(result: Any, read: Callable[[Any], Any]) -> Any:
    """What `read` makes of a result, now or, if it is a coroutine's, later."""

    async def later() -> Any:
        return read(await result)

    return later() if isinstance(result, Awaitable) else read(result)


def message(role: str, content: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": role, "content": content}]


def token_ids(samples: Sequence[Sample], name: str) -> list[list[int]]:
    """The token ids of the responses. Raises ValueError if one has none."""
    if not all(sample.token_ids for sample in samples):
        raise ValueError(f"{name} needs token ids, which the samples do not have; in a file they are `token_ids`")
    return [list(sample.token_ids) for sample in samples]
