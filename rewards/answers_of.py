"""Reference answers as texts, for rewards that compare texts."""

from __future__ import annotations

import json
from typing import Any


def answer_texts(answer: Any) -> list[str]:
    """The accepted answers as texts, none if there is no answer; the data may have them as any JSON value.

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
