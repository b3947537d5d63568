"""Options of a reward, checked against the signature that takes them."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

PLAIN = (bool, int, float, str)
"""Annotations to which options are converted, also inside of these; others are taken as they are."""
SEQUENCES = (list, tuple, set, frozenset, Sequence, Collection, Iterable)
MAPPINGS = (dict, Mapping, MutableMapping)
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
    """The value as the annotation wants it, if that is made of plain types, None, and lists and mappings of these."""
    if not _is_known(annotation):
        return value
    parts = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    kinds = [typing.get_origin(one) or one for one in parts]
    if value is None and type(None) in kinds:
        return value
    for part, kind in zip(parts, kinds, strict=True):
        if kind in MAPPINGS and isinstance(value, Mapping):
            return _fitting_mapping(value, typing.get_args(part), where)
        if kind in SEQUENCES and isinstance(value, list | tuple):
            return _fitting_items(value, part, kind, where)
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{where}: {value} is no {_shown(annotation)}; give a number")
    if type(value) in kinds:
        return value
    return _converted(value, annotation, where)


def _fitting_mapping(value: Mapping[Any, Any], arguments: Sequence[Any], where: str) -> dict[Any, Any]:
    keys, values = arguments or (Any, Any)
    return {
        _fitting(key, keys, f"{where}: the name {key!r}"): _fitting(one, values, f"{where}.{key}")
        for key, one in value.items()
    }


def _fitting_items(value: Sequence[Any], annotation: Any, kind: Any, where: str) -> Any:
    arguments = typing.get_args(annotation)
    if kind is tuple and arguments and arguments[-1] is not ...:
        if len(value) != len(arguments):
            raise ValueError(f"{where}: {value!r} is no {_shown(annotation)}: give {len(arguments)} elements")
        kinds = list(arguments)
    else:
        kinds = [arguments[0] if arguments else Any] * len(value)
    found = [_fitting(one, inner, f"{where}[{i}]") for i, (one, inner) in enumerate(zip(value, kinds, strict=True))]
    return kind(found) if kind in (tuple, set, frozenset) else found


def _converted(value: Any, annotation: Any, where: str) -> Any:
    """A value of another type: what a shell or a file of fields makes of one is turned, all else refused."""
    parts = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    literal = any(typing.get_origin(one) is typing.Literal for one in parts)
    scalars = [one for one in parts if (typing.get_origin(one) or one) not in (*SEQUENCES, *MAPPINGS, type(None))]
    if not scalars or (isinstance(value, bool | Mapping | list | tuple) and not literal):
        raise ValueError(f"{where}: {value!r} is no {_shown(annotation)}")
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        wanted: Any = typing.Union[*scalars]
        adapter: TypeAdapter[Any] = TypeAdapter(wanted, config=ConfigDict(coerce_numbers_to_str=True))
        found = adapter.validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{where}: {value!r} is no {_shown(annotation)}: {error.errors()[0]['msg']}") from None
    if isinstance(found, float) and math.isnan(found):
        raise ValueError(f"{where}: {value!r} is no {_shown(annotation)}; give a number")
    return found


def _is_known(annotation: Any) -> bool:
    """Whether it is made of plain types, None, literals, paths, enumerations, and lists and mappings of known ones."""
    if annotation is Any or annotation is type(None) or annotation is ... or annotation in PLAIN:
        return annotation is not Any
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return True
    if _is_union(annotation):
        return all(map(_is_known, arguments))
    if annotation in (*SEQUENCES, *MAPPINGS) or origin in (*SEQUENCES, *MAPPINGS):
        return True
    return isinstance(annotation, type) and issubclass(annotation, Path | Enum)


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
