"""What passes between this process and the workers: functions by name, calls, and what became of them."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["returned", "raised", "timeout", "crashed"]


@dataclass(frozen=True, slots=True)
class Target:
    """A function, by the name under which a fresh process finds it."""

    module: str
    qualname: str
    preload: tuple[str, ...] = ()
    """Modules imported before the clock starts, for functions that import heavy libraries where they use them."""
    versions: tuple[tuple[str, int], ...] = ()
    """When the files of the modules were written last: a worker that loaded an older one is not used again."""

    @classmethod
    def of(cls, function: Callable[..., Any], preload: tuple[str, ...] = (), wrapper: object = None) -> Target:
        """Name a function of this process.

        Args:
            function: the function, or any callable.
            preload: see above.
            wrapper: the reward object it was decorated into. A lambda, a partial or a callable object has no name of
                its own, but it is found if its wrapper stands at the top level of a module.

        Raises:
            ValueError: another process could not import it; the message goes on from "cannot run".
        """
        module = str(getattr(function, "__module__", None) or type(function).__module__)
        qualname = str(getattr(function, "__qualname__", ""))
        for name, path in [(module, qualname), *_places(wrapper)]:
            if path and "<" not in path and _importable(name):
                target = cls(name, path, preload, tuple((one, _version(one)) for one in (name, *preload)))
                try:
                    if target._lookup() is function:
                        return target
                except AttributeError:
                    continue
        shown = f"{module}.{qualname or type(function).__name__}"
        raise ValueError(f"{shown} in another process; define it at the top level of a module that can be imported")

    def is_older(self, other: Target) -> bool:
        """Whether the other target needs another version of a module that this one needs."""
        mine = dict(self.versions)
        return any(mine.get(module, version) != version for module, version in other.versions)

    def load(self) -> Callable[..., Any]:
        """Import everything the function needs and return it. Raises whatever the imports raise."""
        for name in self.preload:
            importlib.import_module(name)
        return self._lookup()

    def _lookup(self) -> Callable[..., Any]:
        found: Any = importlib.import_module(self.module)
        for part in self.qualname.split("."):
            found = getattr(found, part)
        # A decorated function stands in its module as the reward object that wraps it.
        function: Callable[..., Any] = getattr(found, "function", found)
        return function


def _places(wrapper: object) -> list[tuple[str, str]]:
    """Where a reward object stands at the top level of the module that made it."""
    module = sys.modules.get(getattr(wrapper, "home", ""))
    return [(module.__name__, name) for name, value in vars(module).items() if value is wrapper] if module else []


def _importable(module: str) -> bool:
    """Whether a fresh process with the same path finds a module that this process has."""
    if module == "__main__" or module not in sys.modules:
        return False
    top = module.partition(".")[0]
    return any(finder.find_spec(top, None) is not None for finder in sys.meta_path)


def _version(module: str) -> int:
    try:
        return Path(str(sys.modules[module].__file__)).stat().st_mtime_ns
    except (KeyError, AttributeError, OSError):
        return 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one call."""

    kind: Kind
    value: Any = None
    error: str = ""
    """One line, empty if the function returned."""
    elapsed_s: float = 0.0
    """Seconds the function itself ran, without queueing, start-up and imports."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of this process a plugin may depend on."""

    path: list[str]
    folder: str
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Load:
    """Import a function, in these surroundings."""

    target: Target
    surroundings: Surroundings


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of one function, one after the other; arguments are pickled one by one, so that each fails alone."""

    target: Target
    first: int
    """Number of the first call; the worker tells by its number which one it has begun."""
    arguments: list[bytes]
    options: bytes
    scope: str


@dataclass(frozen=True, slots=True)
class CoroutineCall:
    """One call of a coroutine, beside others."""

    target: Target
    number: int
    argument: bytes
    options: bytes
    scope: str
    timeout_s: float
    cold_timeout_s: float
    """Deadline while nothing has been answered yet."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """A coroutine that lets no other run: found past its deadline."""

    number: int
    seconds: float


def describe(error: BaseException) -> str:
    """One line about an exception: its type, its message and where it was raised."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - a plugin's exception may fail at this too
        text = f"{type(error).__name__} (its message cannot be shown)"
    text = " ".join(text.split()).removesuffix(":")
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text
