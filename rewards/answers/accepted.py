"""Reference answers as texts, for rewards that compare texts; data may have them as any JSON value."""

from __future__ import annotations

import json
from typing import Any


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
    """The answers that count as right, as texts; any of them will do.

    Raises:
        ValueError: there is none, or an object stands where a text or a number should.
    """
    found = answer_texts(answer)
    if not found:
        raise ValueError("the prompt has no reference answer")
    if any(isinstance(one, dict) for one in (answer if isinstance(answer, list | tuple) else [answer])):
        raise ValueError(f"the reference answer {answer!r} is no text, number, truth value or list of these")
    return found
