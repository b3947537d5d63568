"""Values on the line between tests and program: plain data, told apart as Python tells them, and references.

Whatever the program's objects claim about themselves, what arrives is built-in data: its comparisons are Python's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

Refer = Callable[[Any], list[Any]]
"""Stands for a value that is no data."""
Resolve = Callable[[list[Any]], Any]

_SEQUENCES: tuple[tuple[str, Any], ...] = (("t", tuple), ("l", list), ("s", set), ("z", frozenset))


def encode(value: Any, refer: Refer) -> Any:
    """A JSON value for any value."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return ["i", str(int.__add__(value, 0))]
    if isinstance(value, float):
        number = float.__add__(value, 0.0)
        return number if math.isfinite(number) else ["f", str(number)]
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray):
        return ["b", bytes(value).hex()]
    if isinstance(value, complex):
        return ["c", str(value.real), str(value.imag)]
    if isinstance(value, Fraction | Decimal):
        return ["F" if isinstance(value, Fraction) else "D", str(value)]
    if isinstance(value, dict):
        return ["d", [[encode(key, refer), encode(one, refer)] for key, one in dict.items(value)]]
    for mark, kind in _SEQUENCES:
        if isinstance(value, kind):
            return [mark, [encode(one, refer) for one in kind.__iter__(value)]]
    if isinstance(value, range):
        return ["r", value.start, value.stop, value.step]
    return refer(value)


def decode(data: Any, resolve: Resolve) -> Any:
    """The value behind what `encode` made; raises ValueError for anything else."""
    if data is None or isinstance(data, bool | float | str):
        return data
    if not isinstance(data, list) or not data or not isinstance(data[0], str):
        raise ValueError("no value on the line")
    mark, *rest = data
    simple: dict[str, Callable[..., Any]] = {
        "i": int,
        "f": float,
        "b": bytes.fromhex,
        "c": lambda real, imaginary: complex(float(real), float(imaginary)),
        "F": Fraction,
        "D": Decimal,
        "r": range,
    }
    if mark in simple:
        return simple[mark](*rest)
    if mark == "d":
        return {decode(key, resolve): decode(one, resolve) for key, one in rest[0]}
    kinds = dict(_SEQUENCES)
    if mark in kinds:
        return kinds[mark](decode(one, resolve) for one in rest[0])
    return resolve(data)
