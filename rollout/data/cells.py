"""Cells of a row: found by name, nested ones too; and what no text model can read is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from evolpo import InputError

MISSING: Any = object()
"""Stands for a cell that is not there."""

MEDIA = ("image", "images", "img", "video", "videos", "audio", "audios")
MEDIA_PARTS = (*MEDIA, "image_url", "input_image", "input_audio", "audio_url", "video_url")

_SURROGATE = re.compile("[\ud800-\udfff]")
_MEND = "leave out such rows"


def cell(row: Mapping[str, Any], name: str) -> Any:
    """The value under a name, `MISSING` if there is none.

    `reward_model.ground_truth` reaches into nested columns, also where these are JSON objects in a string. A column
    that is itself called so goes before.
    """
    if name in row:
        return row[name]
    head, dot, rest = name.partition(".")
    while dot:
        inner = row.get(head, MISSING)
        if isinstance(inner, str) and inner.lstrip().startswith("{"):
            inner = parsed(inner)
        if isinstance(inner, Mapping) and (found := cell(inner, rest)) is not MISSING:
            return found
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return MISSING


def column(row: Mapping[str, Any], name: str, place: str, field: str) -> Any:
    """The value of a column that must be there; InputError lists the columns that exist if it is not."""
    found = cell(row, name)
    if found is MISSING:
        raise InputError(f"{field}: {place} has no column {name!r}; it has: {', '.join(names_of(row)) or 'none'}")
    return found


def names_of(row: Mapping[str, Any]) -> list[str]:
    """Names of all columns, with those inside of objects."""
    names = []
    for name, value in row.items():
        inner = value if isinstance(value, Mapping) else {}
        names += [name, *(f"{name}.{one}" for one in inner)]
    return names


def parsed(text: str) -> Any:
    """The JSON value of a text, the text itself if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def check_row(row: Mapping[str, Any], place: str, field: str) -> None:
    """Raise InputError if the row holds what a text model cannot read: pictures, sound, halves of characters."""
    for name, value in _walk(row, ""):
        if isinstance(value, str):
            if not value.isascii() and (half := _surrogate(value)):
                message = f"{name!r} holds {half}, half of a character (a lone surrogate); mend or remove the row"
                raise InputError(f"{field}: {place}: {message}")
        elif _is_media(value):
            raise InputError(f"{field}: {place}: {name!r} holds pictures or sound, and models here read text; {_MEND}")


def _walk(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """All cells inside a value, with their full names; what is named after a picture comes as `_Media`."""
    if isinstance(value, Mapping):
        if value.get("type") in MEDIA_PARTS or isinstance(value.get("bytes"), bytes):
            yield name, _Media
            return
        for key, inner in value.items():
            full = f"{name}.{key}" if name else str(key)
            if str(key).lower() in MEDIA and _points_to_media(inner):
                yield full, _Media
            else:
                yield from _walk(inner, full)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _walk(inner, name)
    else:
        yield name, value


class _Media:
    """Marks a cell that holds pictures or sound."""


def _is_media(value: Any) -> bool:
    # Data sets decode pictures into objects of PIL, which need not be installed.
    return value is _Media or type(value).__module__.partition(".")[0] == "PIL"


def _points_to_media(value: Any) -> bool:
    """Whether a value under such a name is a path, an address or data; a matrix called `image` is none."""
    if isinstance(value, list | tuple):
        return any(_points_to_media(one) for one in value)
    if isinstance(value, Mapping):
        return bool(value.get("bytes") or value.get("path") or value.get("url"))
    return (isinstance(value, str | bytes) and bool(value)) or _is_media(value)


def _surrogate(text: str) -> str:
    """The first lone surrogate of a text, as JSON writes it; empty if there is none."""
    found = _SURROGATE.search(text)
    return f"\\u{ord(found.group()):04x}" if found else ""
