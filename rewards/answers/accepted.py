"""Reference answers as texts, for rewards that compare texts; data may have them as any JSON value."""

from __future__ import annotations

import json
import math
from typing import Any

SHOWN = 80
"""Characters of an answer in a message."""


def answer_texts(answer: Any) -> list[str]:
    """The accepted answers as texts, none if there is no answer.

    A list holds several accepted answers. 72.0 is "72", true is "True" as Python prints it, an object is its JSON.
    Empty texts are no answers.
    """
    if answer is None:
        return []
    if isinstance(answer, list | tuple):
        return [text for one in answer for text in answer_texts(one)]
    if isinstance(answer, dict):
        return [json.dumps(answer, ensure_ascii=False)]
    if isinstance(answer, float) and answer.is_integer() and abs(answer) < 2**53:
        answer = int(answer)
    text = str(answer)
    return [text] if text.strip() else []


def accepted_answers(answer: Any) -> list[str]:
    """The answers that count as right, as texts; any of them will do. Nulls in a list are none.

    Raises:
        ValueError: there is none, or something else than a text, a finite number or a truth value stands for one.
    """
    found = answer_texts(answer)
    if not found:
        raise ValueError("it has no reference answer")
    for one in answer if isinstance(answer, list | tuple) else [answer]:
        if not (one is None or isinstance(one, str | int) or (isinstance(one, float) and math.isfinite(one))):
            within = f", which holds {_shown(one)}" if one is not answer else ""
            message = (
                f"the reference answer {_shown(answer)}{within}, is no text, finite number, truth value or list of"
            )
            raise ValueError(f"{message} these")
    return found


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
