"""The fields of a command, read from its dataclass: which there are, what type they have, which numbers make sense."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

from evolpo import InputError

ANYTHING = Any
"""Type of what stands below a field without a type of its own, such as the options of a reward."""
LARGEST = 2**31 - 1
"""No count of anything is larger: more would not fit into any machine."""
LARGEST_FLOAT = 1e12
"""No time, size or rate is larger; products of several of these are still finite."""
LARGEST_SEED = 2**32 - 1
"""Generators take seeds of 32 bits."""
SIGNED = ("weight", "worker")
"""Numbers that may be negative: a reward can be taken off, and a comparison's command itself is no worker."""


def type_of(schema: Any, field: str) -> Any:
    """Type of a field by its full name, such as `data.train.0.path`; None if there is no such field.

    Args:
        schema: the dataclass of a command.
        field: names with dots between them; an element of a list is `.0` or `[0]`.
    """
    found = schema
    for name in _names(field):
        found = _below(found, name)
        if found is None:
            return None
    return found


def check_field(schema: Any, field: str, where: str = "") -> None:
    """Raise InputError, with the nearest name, if a command has no such field.

    Args:
        schema: the dataclass of the command.
        field: full name.
        where: what stands before the message, such as the name of a file.
    """
    if type_of(schema, field) is None:
        raise InputError(f"{where}{shown_name(field)}: there is no such field; {_nearest(schema, field)}")


def shown_name(field: str) -> str:
    """A full name as messages show it: `data.train[0].path`."""
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", field)


def check_numbers(config: Any, prefix: str = "") -> None:
    """Raise InputError if a number of a configuration is none, is not finite, is negative, or is beyond any machine.

    The dataclasses check what a field means; here is what holds for all of them, so that none can be forgotten.

    Args:
        config: an object of a dataclass.
        prefix: its full name with a dot, empty at the top.
    """
    for one in dataclasses.fields(config):
        _check_value(getattr(config, one.name), f"{prefix}{one.name}")


def check_given(schema: Any, given: Any) -> None:
    """`check_numbers` before the dataclasses look at their fields, so that each number is refused under its own name.

    Args:
        schema: the dataclass of the command.
        given: the composed configuration, an OmegaConf node.
    """
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(given)
    for name, value in content.items():
        _check_lists(schema, name, value)
        _check_value(value, name)


def _check_lists(schema: Any, name: str, value: Any) -> None:
    """Raise InputError where a list of numbers holds something else, which OmegaConf lets pass."""
    if isinstance(value, Mapping) and is_section(type_of(schema, name)):
        for key, part in value.items():
            _check_lists(schema, f"{name}.{key}", part)
    elif isinstance(value, list) and without_none(type_of(schema, f"{name}.0")) in (int, float):
        for index, part in enumerate(value):
            if isinstance(part, bool) or not isinstance(part, int | float):
                raise InputError(f"{name}[{index}]: {part!r} is no number; give one")


def _check_value(value: Any, name: str) -> None:
    if dataclasses.is_dataclass(value):
        check_numbers(value, f"{name}.")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _check_value(part, f"{name}.{key}") if not _free(name) else None
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            _check_value(part, f"{name}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(value, name)


def _check_number(value: float, name: str) -> None:
    own = re.sub(r"\[\d+\]", "", name).rsplit(".", 1)[-1]
    if not math.isfinite(value):
        raise InputError(f"{name}: {value} is not finite; give a number")
    if value < 0 and own not in SIGNED:
        raise InputError(f"{name}: {value} is negative; give 0 or more")
    if isinstance(value, float) and abs(value) > LARGEST_FLOAT:
        raise InputError(f"{name}: {value:.3g} is too large; give at most {LARGEST_FLOAT:.0e}")
    if isinstance(value, int):
        largest = LARGEST_SEED if own in ("seed", "seeds") else LARGEST
        if abs(value) > largest:
            raise InputError(f"{name}: {value:.3g} is too large; give at most {largest}")


def _free(name: str) -> bool:
    """Whether what stands below a field is somebody else's, such as the parameters of a task family."""
    return name.rsplit(".", 1)[-1] in ("options", "params")


def _names(field: str) -> Sequence[str]:
    return [name for name in re.split(r"[.\[\]]+", field) if name]


def _below(found: Any, name: str) -> Any:
    """Type of what is called `name` in something of type `found`; None if there is no such thing."""
    found = without_none(found)
    if found is ANYTHING:
        return ANYTHING
    if dataclasses.is_dataclass(found):
        return typing.get_type_hints(found).get(name)
    origin, arguments = typing.get_origin(found), typing.get_args(found)
    if origin is list:
        return arguments[0] if name.isdecimal() else None
    if origin is dict:
        return arguments[1]
    return None


def without_none(found: Any) -> Any:
    """`int | None` as `int`; `ANYTHING` for other unions."""
    if typing.get_origin(found) in (Union, types.UnionType):
        kept = [one for one in typing.get_args(found) if one is not type(None)]
        return kept[0] if len(kept) == 1 else ANYTHING
    return found


def is_text(found: Any) -> bool:
    """Whether a field of this type holds text."""
    return without_none(found) is str


def is_section(found: Any) -> bool:
    """Whether a field of this type holds further fields of its own."""
    return dataclasses.is_dataclass(without_none(found))


def is_open(schema: Any, field: str) -> bool:
    """Whether a field, or one that it stands below, holds names that no dataclass knows, such as a reward's options."""
    parts = _names(field)
    above = (type_of(schema, ".".join(parts[:count])) for count in range(1, len(parts) + 1))
    return any(typing.get_origin(without_none(one)) is dict for one in above)


def all_fields(schema: Any, prefix: str = "") -> Iterator[str]:
    """Full names of all fields of a dataclass; an element of a list is `[]`."""
    for name, found in typing.get_type_hints(schema).items():
        yield f"{prefix}{name}"
        found = without_none(found)
        inner = typing.get_args(found)[:1] if typing.get_origin(found) is list else ()
        for part, dots in ((found, "."), *((one, "[].") for one in inner)):
            if is_section(part):
                yield from all_fields(part, f"{prefix}{name}{dots}")


def _nearest(schema: Any, field: str) -> str:
    """What the user may have meant: the field of that name elsewhere, or the most similar name."""
    known = list(all_fields(schema))
    names = _names(field)
    plain = ".".join("[]" if name.isdecimal() else name for name in names).replace(".[]", "[]")
    elsewhere = [one for one in known if one.rsplit(".", 1)[-1] == names[-1]]
    beside = [one for one in known if one.rpartition(".")[0] == plain.rpartition(".")[0]]
    own = {one.rsplit(".", 1)[-1]: one for one in [*known, *beside]}
    similar = difflib.get_close_matches(plain, beside, n=1, cutoff=0.75)
    similar = similar or elsewhere[:1] or [own[one] for one in difflib.get_close_matches(names[-1], own, n=1)]
    return f"did you mean {similar[0]}?" if similar else "--help shows all"
