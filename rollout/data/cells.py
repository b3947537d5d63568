"""Cells of a row: found by name, nested ones too; and what no text model can read is refused by name."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from evolpo import InputError

MISSING: Any = object()
"""Stands for a cell that is not there."""

MEDIA = frozenset({"image", "images", "img", "video", "videos", "audio", "audios"})
"""Names of columns and fields that hold pictures or sound."""

_PRINTED = re.compile(r"\s*\[?\s*\{?\s*['\"]")
"""How a list or an object that holds texts begins where Python prints it."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_PARTS = (*sorted(MEDIA), "image_url", "input_image", "input_audio", "audio_url", "video_url")
_PICTURES = "pictures or sound, and models here read text"
_FILE = ({"bytes", "path"}, {"array", "sampling_rate"}, {"path", "array", "sampling_rate"})
"""Fields of the objects that data sets make of a picture or of sound, whatever their column is called."""
_DATA = r"data:(?:image|audio|video)/[\w.+-]+(?:;[\w=.+-]+)*;base64,"
_DATA_CELL = re.compile(rf"\s*{_DATA}")
_DATA_IN_MARKDOWN = re.compile(rf"!\[[^\]\n]*\]\(\s*<?{_DATA}")
_DATA_IN_TEXT = re.compile(_DATA)


class UnreadableError(InputError):
    """A row holds what no text model can read."""


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


def opened(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns, and beside them what an object in a column `metadata` holds, as `evolpo score` reads it.

    A column goes before a field of the same name.
    """
    inner = columns.get("metadata")
    inner = parsed(inner) if isinstance(inner, str) else inner
    return {**inner, **columns} if isinstance(inner, Mapping) else dict(columns)


def parsed(text: str) -> Any:
    """The value of a text that is JSON, or a list or an object as Python prints it; the text itself if it is neither.

    pandas writes lists and objects to CSV as Python prints them.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # a backslash that escapes nothing
            return ast.literal_eval(text.strip()) if _PRINTED.match(text) and not _joins_texts(text.strip()) else text
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        return text


def _joins_texts(text: str) -> bool:
    """Whether texts stand without a comma between them, as numpy prints them: Python would make one of them."""
    kinds = [one.type for one in tokenize.generate_tokens(io.StringIO(text).readline) if one.type != tokenize.NL]
    return (tokenize.STRING, tokenize.STRING) in pairwise(kinds)


def check_row(row: Mapping[str, Any], place: str, field: str) -> None:
    """Raise UnreadableError if the row holds what a text model cannot read: pictures, sound, half a character."""
    found = _unreadable(row, "")
    if found is not None:
        name, what = found
        raise UnreadableError(f"{field}: {place}: {name!r} holds {what}; mend or leave out such rows")


def check_prompt(text: str, name: str, place: str, field: str) -> None:
    """Raise UnreadableError if a text that a model is to read has a picture or sound in it, as `data:image/...`.

    Elsewhere such data may be right, as in the page that a front-end task begins with.
    """
    if ";base64," in text and _DATA_IN_TEXT.search(text):
        raise UnreadableError(f"{field}: {place}: {name!r} holds {_PICTURES}; mend or leave out such rows")


def _unreadable(value: Any, name: str) -> tuple[str, str] | None:
    """Full name of the first cell inside a value that no text model can read, and what it holds."""
    kind = type(value)
    if kind is str:
        if ";base64," in value and (_DATA_CELL.match(value) or _DATA_IN_MARKDOWN.search(value)):
            return name, _PICTURES
        half = None if value.isascii() else _SURROGATE.search(value)
        return None if half is None else (name, f"\\u{ord(half.group()):04x}, half of a character (a lone surrogate)")
    if kind is int or kind is float or kind is bool or value is None:
        return None
    if kind is dict:
        if value.get("type") in _PARTS or isinstance(value.get("bytes"), bytes):
            return name, _PICTURES
        if value.keys() in _FILE and any(one is not None for one in value.values()):
            return name, _PICTURES
        for key, inner in value.items():
            full = f"{name}.{key}" if name else str(key)
            if str(key).lower() in MEDIA and _points_to_media(inner):
                return full, _PICTURES
            if (found := _unreadable(inner, full)) is not None:
                return found
        return None
    if kind is list or kind is tuple:
        return next((found for one in value if (found := _unreadable(one, name)) is not None), None)
    # Data sets decode pictures into objects of PIL, which need not be installed.
    return (name, _PICTURES) if kind.__module__.partition(".")[0] == "PIL" else None


def _points_to_media(value: Any) -> bool:
    """Whether a value under such a name is a path, an address or data; a matrix called `image` is none."""
    if isinstance(value, list | tuple):
        return any(_points_to_media(one) for one in value)
    if isinstance(value, Mapping):
        return any(value.get(one) is not None for one in ("bytes", "path", "url", "array"))
    return isinstance(value, str | bytes) and bool(value)
