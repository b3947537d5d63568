"""The verdict in what a judge says: one JSON object of the form that was asked for, at the end, or nothing.

A judge reads texts of the model that is being trained, and repeats them: quoted, in fences of code, in thoughts. What
it repeats is no verdict, whatever it looks like. So an object counts by where it stands, not by what it says.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from evolpo.rewards.thoughts import without_thoughts

__all__ = ["error_line", "parse_verdict"]

V = TypeVar("V", bound=BaseModel)

_BRACE = re.compile(r"[{}]")
_FLAT_OBJECT = re.compile(r"\{[^{}]*\}")
# What may stand around the object at the end of an answer: a fence of code, stress, a tag, the mark of an end.
_BEFORE = re.compile(r"(?:[*_\s\ufeff\u200b]|`++[\w-]*+|<\w++>|<\|\w++\|>)*+")
_AFTER = re.compile(r"(?:[*_`.\s\ufeff\u200b]|</\w++>|<\|\w++\|>)*+")
_BETWEEN = re.compile(r"(?:[*_\s\ufeff\u200b]|`++[\w-]*+|</?\w++>|<\|\w++\|>)*+")


@dataclass(frozen=True, slots=True)
class _Span:
    """A pair of outermost braces in an answer."""

    start: int
    end: int
    value: Any
    """The object; None if it is not JSON."""
    fault: str
    """Why it is none."""


def parse_verdict(text: str, form: type[V], material: str = "") -> V:
    """The verdict in an answer of a judge.

    It is the last JSON object of the answer, thoughts left out, and must be of the form; what comes before it says
    nothing, unless it is another object without a word between. It counts if nothing follows it; on lines of its own it
    counts with prose after it, if no other object contradicts it. An object that the material holds as well may be a
    quotation, so it counts only if the answer is nothing else.

    Args:
        text: the answer.
        form: fields and ranges.
        material: what the judge was given to judge.

    Raises:
        ValueError: no object, a broken or unfinished one, one that may be a quotation, a key twice, a field that is
            missing, of a wrong type or out of range. One line.
    """
    answer = without_thoughts(text)
    if answer is None:
        raise ValueError("its thoughts have no end")
    spans = _spans(answer)
    if not spans:
        raise ValueError("it holds no JSON object")
    last = spans[-1]
    if last.fault:
        raise ValueError(last.fault)
    try:
        verdict = form.model_validate(last.value, strict=True)
    except ValidationError as error:
        raise ValueError(error_line(error)) from None
    lines = answer[: last.start].rpartition("\n")[2], answer[last.end :].partition("\n")[0]
    alone = _BEFORE.fullmatch(lines[0]) is not None and _AFTER.fullmatch(lines[1]) is not None
    at_end = _AFTER.fullmatch(answer, last.end) is not None
    if not (at_end or alone):
        raise ValueError("its JSON object does not stand by itself at the end")
    if not (at_end and _BEFORE.fullmatch(answer, 0, last.start)) and _holds(material, last.value):
        raise ValueError(
            "its JSON object may be a quotation, as the material holds the same and the answer more than it"
        )
    others = [span for span in spans if span.value is not None and span.value != last.value]
    if others and (not at_end or _side_by_side(answer, others[-1], last)):
        raise ValueError(f"it holds {len(others) + 1} JSON objects that differ, and does not end with one of them")
    return verdict


def _side_by_side(answer: str, one: _Span, other: _Span) -> bool:
    """Whether no word stands between two objects, so that the later does not take the earlier back."""
    return _BETWEEN.fullmatch(answer, one.end, other.start) is not None


def error_line(error: ValidationError) -> str:
    """The first finding of pydantic in one line, with the path of the field: `dimensions[0].weight: ...`."""
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    message = first["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


def _spans(text: str) -> list[_Span]:
    """All pairs of outermost braces. Raises ValueError where a brace is left open."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    found: list[_Span] = []
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
            found.append(_Span(start, end, value, ""))
        except (ValueError, RecursionError) as error:
            # A mistake of the grammar may be prose such as {1, 2}; its inside is no verdict either.
            fault = "its JSON object is broken or unfinished"
            if isinstance(error, RecursionError):
                fault = "its JSON is nested too deeply"
            elif not isinstance(error, json.JSONDecodeError):
                fault = str(error)
            end = _closing_brace(text, start)
            found.append(_Span(start, end, None, fault))
        start = text.find("{", end)
    return found


def _closing_brace(text: str, start: int) -> int:
    """Where the pair of braces that opens at `start` ends. Raises ValueError if it does not."""
    depth = 0
    for match in _BRACE.finditer(text, start):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return match.end()
    raise ValueError("its JSON object is broken or unfinished")


def _holds(material: str, value: Mapping[str, Any]) -> bool:
    """Whether an object of the material says the same wherever both say something."""
    for match in _FLAT_OBJECT.finditer(material):
        with contextlib.suppress(ValueError, RecursionError):
            planted = json.loads(match.group())
            common = planted.keys() & value.keys()
            if common and all(planted[key] == value[key] for key in common):
                return True
    return False


def _without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("its JSON object has a key twice")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
