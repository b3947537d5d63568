"""Instructions about what can be seen in a response: lists, sections, titles, JSON."""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import BeforeValidator

from evolpo.rewards.instructions.units import phrase_pattern
from evolpo.rewards.instructions.values import Count, Text, Texts

_PLACEHOLDER = re.compile(r"\[([^\[\]\n]*)\]")
_BULLET = re.compile(r"\*(?!\*)|-")
_RULE = re.compile(r"[* \t]*|[- \t]*")
_EMPHASIS = re.compile(r"\*[^\s*][^*]*\*")
_HIGHLIGHT = re.compile(r"\*{3}([^\n*]+)\*{3}|\*{2}([^\n*]+)\*{2}|\*([^\n*]+)\*")
_FENCE = "```"
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _as_list(options: object) -> object:
    if not isinstance(options, str):
        return options
    return [one for part in options.split(",") if (one := part.strip(" '\""))]


Options = Annotated[Texts, BeforeValidator(_as_list)]


def number_placeholders(text: str, num_placeholders: Count) -> bool:
    """At least so many pairs of square brackets with something inside, each on one line."""
    return sum(bool(inside.strip()) for inside in _PLACEHOLDER.findall(text)) >= num_placeholders


def postscript(text: str, postscript_marker: Text) -> bool:
    """The marker occurs, in letters of either case; `P.S.` also as `P. S.`, `P.P.S` also with a last dot."""
    parts = [re.escape(part) for part in postscript_marker.lower().split(".")]
    return re.search(r"(?<!\w)" + r"\.\s?".join(parts), text.lower()) is not None


def number_bullet_lists(text: str, num_bullets: Count) -> bool:
    """Exactly so many lines that begin with `*` or `-`; rules such as `* * *` and words in italics are no bullets."""
    lines = [line.strip() for line in text.split("\n")]
    bullets = [line for line in lines if _BULLET.match(line) and not _EMPHASIS.match(line)]
    return sum(_RULE.fullmatch(line) is None for line in bullets) == num_bullets


def constrained_response(text: str, options: Options = _OPTIONS) -> bool:
    """One of the options occurs, in letters as they are, and no other one."""
    found = [one for one in options if phrase_pattern(one, whole_words=True).search(text) and one in text]
    return len({one for one in found if not any(one in other and one != other for other in found)}) == 1


def number_highlighted_sections(text: str, num_highlights: Count) -> bool:
    """At least so many pieces between one, two or three asterisks, each on one line and not empty."""
    return sum(any(map(str.strip, groups)) for groups in _HIGHLIGHT.findall(text)) >= num_highlights


def multiple_sections(text: str, section_spliter: Text, num_sections: Count) -> bool:
    """The splitter stands before at least so many different numbers, as in `Section 1`."""
    numbers = re.findall(rf"(?<!\w){re.escape(section_spliter)}\s?(\d+)", text)
    return len(set(numbers)) >= num_sections


def json_format(text: str) -> bool:
    """The whole text is a JSON object or array, in a fence of code or not."""
    text = text.strip()
    if text.startswith(_FENCE):
        text = text.removeprefix(_FENCE).removesuffix(_FENCE)
        text = text[4:] if text[:4].lower() == "json" else text
    try:
        return isinstance(json.loads(text, parse_constant=_refuse), dict | list)
    except (ValueError, RecursionError):
        return False


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def title(text: str) -> bool:
    """Something stands between `<<` and `>>` on one line."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end and line[start:end].strip("<> "):
            return True
    return False
