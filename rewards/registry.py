"""From the name in a configuration to the reward: entry points `evolpo.rewards`, and `module:attribute`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any, get_args

from evolpo import InputError
from evolpo.rewards.base import COLD_TIMEOUT_S, DEFAULT_TIMEOUT_S, FunctionReward, Reward, Scope
from evolpo.rewards.importing import check_path, import_attribute
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
    options = dict(options or {})
    try:
        found = import_attribute(_resolve(use))
        if isinstance(found, FunctionReward):
            return found.configured(timeout_s, options, cold_timeout_s)
        if isinstance(found, type):
            found = _instance(found, options, use)
        elif options:
            raise ValueError(f"{use} is an object that takes no options; give a class")
        return _checked(found, use)
    except ValueError as error:
        raise InputError(_with_field(str(error), field)) from error


def _with_field(message: str, field: str) -> str:
    """A message under the full name of its field: an option stands beside `use`, not below it."""
    beside = field.removesuffix("use")
    # Adapters speak of their option `function`.
    option = message if re.match(r"options\.\w", message) else f"options.{message}"
    return f"{beside}{option}" if option.startswith(("options.function: ", message)) else f"{field}: {message}"


def _instance(found: type, options: Mapping[str, Any], use: str) -> Any:
    taken = fitting_options(found, options, found.__name__)
    try:
        return found(**taken)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(f"{use} cannot be made: {describe(error)}") from error


def _checked(found: Any, use: str) -> Reward:
    """The object, if it is a reward. Raises ValueError if it is none, or says of itself what no reward can be."""
    try:
        named = isinstance(found, Reward)  # asks for its attributes, which may be properties
        scope, name = (found.scope, found.name) if named else ("", "")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(f"{use} is no reward: {describe(error)}") from error
    if not named:
        mend = _decorate(found, use) if callable(found) else "it needs name, scope and score()"
        raise ValueError(f"{use} is a {type(found).__name__}, no reward; {mend}")
    if scope not in get_args(Scope):
        raise ValueError(f"{use} has the scope {scope!r}; a reward's is sample or group")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{use} has the name {name!r}; a reward's is a text")
    reward: Reward = found
    return reward


def _decorate(found: Any, use: str) -> str:
    from evolpo.rewards.adapters.guess import how_to_use

    decorate = "decorate it with @sample_reward or @group_reward"
    adapter = how_to_use(found, use)
    return f"written for another toolkit? {adapter}; or {decorate}" if adapter else decorate


def _resolve(use: str) -> str:
    """`module:attribute` behind a name."""
    if ":" in use:
        return use
    available = available_rewards()
    if use in available:
        return available[use]
    if re.search(r"[./]", use):
        check_path(use)
    near = difflib.get_close_matches(use, available, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    names = ", ".join(available) or "none"
    raise ValueError(f"no reward is called {use!r}; {hint}installed: {names}; or give module:attribute")
