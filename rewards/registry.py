"""From the name in a configuration to the reward: entry points `evolpo.rewards`, and `module:attribute`."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from evolpo import InputError
from evolpo.rewards.base import COLD_TIMEOUT_S, DEFAULT_TIMEOUT_S, FunctionReward, Reward
from evolpo.rewards.options import fitting_options
from evolpo.rewards.service.workers import describe

ENTRY_POINT_GROUP = "evolpo.rewards"


def available_rewards() -> dict[str, str]:
    """Name -> `module:attribute` of every installed reward, sorted by name."""
    points = sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return {point.name: point.value for point in points}


def load_reward(
    use: str,
    field: str,
    options: Mapping[str, Any] | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    cold_timeout_s: float = COLD_TIMEOUT_S,
) -> Reward:
    """Find, import and configure one reward.

    Args:
        use: name of an entry point, or `module:attribute`; the current directory is importable. The attribute is a
            decorated function, a `Reward` object or a class of such objects.
        field: full name of the configuration field that `use` comes from.
        options: keyword arguments for the function or the class.
        timeout_s: deadline in seconds of decorated functions that set none.
        cold_timeout_s: the same for the first call in a fresh process.

    Raises:
        InputError: nothing of that name, it cannot be imported, it is no reward, or it does not take the options.
    """
    path = _resolve(use, field)
    options = dict(options or {})
    try:
        found = import_attribute(path)
        if isinstance(found, FunctionReward):
            return found.configured(timeout_s, options, cold_timeout_s)
        if isinstance(found, type):
            found = _instance(found, options, use)
        elif options:
            raise ValueError(f"{use} is an object that takes no options; give a class")
    except ValueError as error:
        raise InputError(f"{field}: {error}") from error
    if isinstance(found, Reward):
        return found
    mend = "decorate it with @sample_reward or @group_reward" if callable(found) else "it needs name, scope and score()"
    raise InputError(f"{field}: {use} is a {type(found).__name__}, no reward; {mend}")


def _instance(found: type, options: Mapping[str, Any], use: str) -> Any:
    taken = fitting_options(found, options, found.__name__)
    try:
        return found(**taken)
    except Exception as error:
        raise ValueError(f"{use} cannot be made: {describe(error)}") from error


def _resolve(use: str, field: str) -> str:
    """`module:attribute` behind a name."""
    if ":" in use:
        return use
    available = available_rewards()
    if use in available:
        return available[use]
    near = difflib.get_close_matches(use, available, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    names = ", ".join(available) or "none"
    raise InputError(f"{field}: no reward is called {use!r}; {hint}installed: {names}; or give module:attribute")


def import_attribute(path: str) -> Any:
    """What `module:attribute` names; the current directory is importable.

    Raises:
        ValueError: it cannot be imported, in one line.
    """
    module_name, _, attributes = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found = _import_module(module_name, here)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            near = difflib.get_close_matches(attribute, dir(found), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{module_name} has no attribute {attributes!r}{hint}")
        found = getattr(found, attribute)
    return found


def _import_module(name: str, here: str) -> Any:
    held_back = _HeldBack(sys.stderr)
    try:
        # A module that parses the command line prints its usage before it exits; the mistake is to be one line.
        with contextlib.redirect_stderr(held_back):
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(f"there is no module {error.name!r} in {here} or among the installed") from error
        raise ValueError(f"{name} cannot be imported: {error}") from error
    except SystemExit as error:
        said = f" ({held_back.last_line()})" if held_back.last_line() else ""
        raise ValueError(f"{name} ends the program when it is imported{said}; do that in a function") from error
    except Exception as error:
        raise ValueError(f"{name} cannot be imported: {describe(error)}") from error
    held_back.release()
    return module


class _HeldBack(io.TextIOBase):
    """A stream that keeps what is written until it is released, and hands it on from then on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._held: list[str] | None = []

    def write(self, text: str) -> int:
        if self._held is None:
            return self._stream.write(text)
        self._held.append(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def last_line(self) -> str:
        """The last line that is kept."""
        return "".join(self._held or []).strip().rpartition("\n")[2]

    def release(self) -> None:
        """Write what was kept."""
        held, self._held = self._held or [], None
        self._stream.write("".join(held))
