"""The reference answers of a prompt, as data sources give them: a text, a number, true or false, or a list of these."""

from __future__ import annotations

import math
from typing import Any


def accepted_answers(answer: Any) -> list[str]:
    """The answers that count as right, as texts; any of them will do.

    Raises:
        ValueError: there is no reference answer, or it is neither text, number, truth value nor a list of these.
    """
    if answer is None or answer == [] or (isinstance(answer, str) and not answer.strip()):
        raise ValueError("the prompt has no reference answer")
    if isinstance(answer, list | tuple):
        return [text for one in answer for text in accepted_answers(_no_list(one, answer))]
    if isinstance(answer, str):
        return [answer]
    if isinstance(answer, bool):
        return [str(answer)]
    if isinstance(answer, int) or (isinstance(answer, float) and math.isfinite(answer)):
        return [repr(answer)]
    raise ValueError(f"the reference answer {answer!r} is no text, number, truth value or list of these")


def _no_list(one: Any, answer: Any) -> Any:
    if isinstance(one, list | tuple):
        raise ValueError(f"the reference answer {answer!r} is a list of lists; give a list of texts or numbers")
    return one
