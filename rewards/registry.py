"""From the name in a configuration to the reward: entry points `evolpo.rewards`, and `module:attribute`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.rewards.base import DEFAULT_TIMEOUT_S, FunctionReward, Reward
from evolpo.rewards.service.workers import describe

ENTRY_POINT_GROUP = "evolpo.rewards"


def available_rewards() -> dict[str, str]:
    """Name -> `module:attribute` of every installed reward, sorted by name."""
    points = sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return {point.name: point.value for point in points}


def load_reward(
    use: str, field: str, options: Mapping[str, Any] | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Reward:
    """Find, import and configure one reward.

    Args:
        use: name of an entry point, or `module:attribute`; the current directory is importable. The attribute is a
            decorated function, a `Reward` object or a class of such objects.
        field: full name of the configuration field that `use` comes from.
        options: keyword arguments for the function or the class.
        timeout_s: deadline in seconds of decorated functions that set none.

    Raises:
        InputError: nothing of that name, it cannot be imported, it is no reward, or it does not take the options.
    """
    found = _import(_resolve(use, field), field)
    try:
        if isinstance(found, FunctionReward):
            return found.configured(timeout_s, options or {})
        if isinstance(found, type):
            found = found(**(options or {}))
        elif options:
            raise TypeError(f"{use} is an object that takes no options; give a class")
    except (TypeError, ValueError) as error:
        raise InputError(f"{field}: {error}") from error
    if isinstance(found, Reward):
        return found
    mend = "decorate it with @sample_reward or @group_reward" if callable(found) else "it needs name, scope and score()"
    raise InputError(f"{field}: {use} is a {type(found).__name__}, no reward; {mend}")


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


def _import(path: str, field: str) -> Any:
    module_name, _, attributes = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise InputError(f"{field}: there is no module {error.name!r} in {here} or among the installed") from error
        raise InputError(f"{field}: {module_name} cannot be imported: {error}") from error
    except Exception as error:
        raise InputError(f"{field}: {module_name} cannot be imported: {describe(error)}") from error
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            near = difflib.get_close_matches(attribute, dir(found), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{field}: {module_name} has no attribute {attributes!r}{hint}")
        found = getattr(found, attribute)
    return found
