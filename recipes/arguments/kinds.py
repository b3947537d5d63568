"""Whether a value is of the kind that its field holds, told before OmegaConf looks at it, and under its full name."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from importlib import resources
from typing import Any

from evolpo import InputError
from evolpo.recipes.arguments.fields import check_field, is_section, shown_name, type_of, without_none

_TRUTH = frozenset({"y", "yes", "on", "true", "1", "n", "no", "off", "false", "0"})
"""Texts that OmegaConf takes for a truth value, in any letters."""
_LONGEST = 60


def check_value(schema: Any, field: str, value: Any, where: str = "") -> None:
    """Raise InputError if a value is of another kind than its field, or sets fields below it that do not exist.

    Args:
        schema: the dataclass of the command.
        field: full name; it exists.
        value: read from YAML, or from the command line.
        where: what stands before the message, such as the name of a file.
    """
    why = _unlike(type_of(schema, field), value, field)
    if why:
        raise InputError(f"{where}{shown_name(field)}: {why}")
    if isinstance(value, Mapping | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            check_field(schema, f"{field}.{key}", where)
            check_value(schema, f"{field}.{key}", part, where)


def is_group(field: str) -> bool:
    """Whether files of `conf/` give a field its values, so that one is picked by name."""
    return "." not in field and resources.files("evolpo.recipes.conf").joinpath(field).is_dir()


def _unlike(found: Any, value: Any, field: str) -> str:
    """Why a value is not of a type; empty if it is, or if OmegaConf is to tell."""
    kind = without_none(found)
    if isinstance(value, str) and ("${" in value or value == "???"):
        return ""
    if value is None:
        optional = kind is Any or type(None) in typing.get_args(found)
        return "" if optional else f"is null; give {_wanted(kind)}, or leave it out"
    if is_section(kind) and isinstance(value, str) and is_group(field):
        return ""
    if _fits(kind, value):
        return ""
    if kind is str and isinstance(value, bool):
        return f"{_shown(value)} is a truth value, which YAML makes of yes, no, on and off; put the text in quotes"
    return f"{_shown(value)} does not fit; give {_wanted(kind)}"


def _fits(kind: Any, value: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    if dataclasses.is_dataclass(kind) or origin is dict:
        return isinstance(value, Mapping)
    if origin is list:
        return isinstance(value, list | tuple)
    if kind not in (str, int, float, bool):
        return True
    if isinstance(value, Mapping | list | tuple):
        return False
    if kind is bool:
        return value in (0, 1) if isinstance(value, int) else str(value).lower() in _TRUTH
    if isinstance(value, bool):
        return False
    if kind is str:
        return not (isinstance(value, float) and math.isnan(value))
    if isinstance(value, str):
        return _is_number(kind, value)
    return kind is float or not isinstance(value, float)  # what is not finite is refused by its own name


def _is_number(kind: type[int] | type[float], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _wanted(kind: Any) -> str:
    """What a field holds, with an example."""
    if dataclasses.is_dataclass(kind):
        return f"its fields, as in {_example(kind)}"
    if typing.get_origin(kind) is dict:
        return "a mapping, as in {name: value}"
    if typing.get_origin(kind) is list:
        return f"a list, as in [{_example(typing.get_args(kind)[0])}]"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a value")


def _example(kind: Any) -> str:
    if dataclasses.is_dataclass(kind):
        return f"{{{dataclasses.fields(kind)[0].name}: ...}}"
    return {str: "name", int: "1", float: "0.5"}.get(kind, "...")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
