"""Options of a reward, checked against the signature that takes them."""

from __future__ import annotations

import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

PLAIN = (bool, int, float, str)
"""Annotations to which options are converted; others are taken as they are."""
VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def fitting_options(
    function: Callable[..., Any], options: Mapping[str, Any], name: str, first: int = 0, open_ended: bool = True
) -> dict[str, Any]:
    """The options as the function's annotations want them: `no` becomes False for a bool, `3` a number for an int.

    Args:
        function: what takes them as keyword arguments: a function, or a class for its constructor.
        options: by name.
        name: of the function, for messages.
        first: parameters at the beginning that are no options.
        open_ended: whether `**arguments` of the function takes any further options.

    Raises:
        ValueError: an option is unknown, required and missing, or does not fit its annotation.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())[first:]
    except (TypeError, ValueError):
        return dict(options)  # Written in C: its call will tell.
    named = {one.name: one for one in parameters if one.kind not in VARIABLE}
    catches_all = open_ended and any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    known = ", ".join(named) or "none"
    if not catches_all and (unknown := [one for one in options if one not in named]):
        near = difflib.get_close_matches(unknown[0], named, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"options.{unknown[0]}: unexpected keyword argument {unknown[0]!r}{hint}; {name} takes {known}"
        )
    empty = inspect.Parameter.empty
    if missing := [one.name for one in named.values() if one.default is empty and one.name not in options]:
        raise ValueError(f"options.{missing[0]}: missing a required argument: {missing[0]!r}; {name} takes {known}")
    hints = _hints(function)
    return {key: _fitting(value, hints.get(key), f"options.{key}") for key, value in options.items()}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return typing.get_type_hints(vars(function).get("__init__") if isinstance(function, type) else function)
    except Exception:  # noqa: BLE001 - annotations may name anything
        return {}


def _fitting(value: Any, annotation: Any, where: str) -> Any:
    """The value as the annotation wants it, if that is made of plain types and None."""
    parts = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    plain = [one for one in parts if one in PLAIN]
    literal = typing.get_origin(annotation) is typing.Literal
    if not literal and len(plain) != sum(one is not type(None) for one in parts):
        return value
    if not literal and (type(value) in plain or (value is None and type(None) in parts)):
        return value
    if isinstance(value, bool) and not literal:
        raise ValueError(f"{where}: {value!r} is no {_shown(annotation)}")
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        return TypeAdapter(annotation, config=ConfigDict(coerce_numbers_to_str=True)).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{where}: {value!r} is no {_shown(annotation)}: {error.errors()[0]['msg']}") from None


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
