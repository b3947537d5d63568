"""The answer inside of a text: what a reference solution ends with."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from evolpo import InputError

HASHES, BOXED = "####", "boxed"
"""Patterns with a name of their own: what follows the last `####`, as in GSM8K; the content of the last box."""

_BOX = re.compile(r"\\f?boxed\s*\{")


def check_pattern(pattern: str, field: str) -> None:
    """Raise InputError unless it is a named pattern or a regular expression with one group at most."""
    if pattern in ("", HASHES, BOXED):
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        message = f"{pattern!r} is no regular expression ({error}); give one, or {HASHES} or {BOXED}"
        raise InputError(f"{field}: {message}") from error
    if groups > 1:
        raise InputError(f"{field}: {pattern!r} has {groups} groups; give one, around the answer")


def plain(answer: Any) -> Any:
    """An answer with whole numbers and floats for the decimal numbers of a table's column; lists likewise."""
    if isinstance(answer, list):
        return [plain(one) for one in answer]
    if isinstance(answer, Decimal) and answer.is_finite():
        return int(answer) if answer == answer.to_integral_value() else float(answer)
    return answer


def extracted(answer: Any, pattern: str, place: str, field: str) -> Any:
    """The last match of a pattern in an answer, its group if it has one; of a list, that in each of its texts.

    What is no text, such as a number, is returned as it is.

    Raises:
        InputError: the pattern does not occur.
    """
    if isinstance(answer, list):
        return [extracted(one, pattern, place, field) for one in answer]
    if not pattern or not isinstance(answer, str):
        return answer
    found = _last(answer, pattern)
    if found is None:
        tail = answer.strip()[-60:]
        raise InputError(f"{field}: {place}: {pattern!r} does not occur in the answer, which ends with {tail!r}")
    return found.strip()


def _last(text: str, pattern: str) -> str | None:
    if pattern == HASHES:
        return text.rpartition(HASHES)[2] if HASHES in text else None
    if pattern == BOXED:
        return _last_box(text)
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    return matches[-1].group(1) if matches[-1].re.groups else matches[-1].group()


def _last_box(text: str) -> str | None:
    """Content of the last box that is closed, braces inside of it balanced."""
    for start in reversed([match.end() for match in _BOX.finditer(text)]):
        depth = 1
        for index in range(start, len(text)):
            escaped = index > 0 and text[index - 1] == "\\"
            depth += 0 if escaped else {"{": 1, "}": -1}.get(text[index], 0)
            if depth == 0:
                return text[start:index]
    return None
