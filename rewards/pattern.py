"""Does the response match a regular expression?"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from evolpo.rewards.answers.accepted import accepted_answers, answer_texts
from evolpo.rewards.base import Sample, Score, sample_reward
from evolpo.rewards.fit import needs
from evolpo.rl.data import Prompt

Mode = Literal["full", "search"]


def _a_pattern(prompt: Prompt, *, pattern: str = "", **_: Any) -> str | None:
    """A text, or a list of them, that are regular expressions; a number is the expression of its digits."""
    if pattern:
        return None
    try:
        for one in accepted_answers(prompt.answer):
            _compiled(one)
    except ValueError as error:
        return str(error)
    return None


@sample_reward(isolate=True)
@needs(_a_pattern)
def pattern_match(sample: Sample, *, pattern: str = "", mode: Mode = "full") -> Score:
    """1 if the response matches the pattern, or one of the accepted answers that are patterns, else 0.

    Patterns can backtrack for ever, so it runs in a process that is killed at the deadline; such a response stays
    unscored.

    Args:
        sample: the response; white space at its ends is left out.
        pattern: a regular expression of Python's `re`; flags stand in it, as in `(?is)yes.*`. Empty: the prompt's
            reference answer is the pattern; of a list of them one must match.
        mode: `full`: all of the response must match; `search`: a part of it suffices.

    Raises:
        ValueError: there is no pattern, it is no regular expression, or the mode is unknown.
    """
    expressions = [pattern] if pattern else answer_texts(sample.answer)
    if not expressions:
        raise ValueError("there is no pattern: set options.pattern, or give the prompt a reference answer")
    if mode not in get_args(Mode):
        raise ValueError(f"mode {mode!r} is none of {', '.join(get_args(Mode))}")
    text = sample.text.strip()
    found = [match for match in (_match(one, text, mode) for one in expressions) if match is not None]
    return Score(float(bool(found)), artifacts={"match": found[0].group()} if found else {})


def _match(expression: str, text: str, mode: Mode) -> re.Match[str] | None:
    compiled = _compiled(expression)
    return compiled.fullmatch(text) if mode == "full" else compiled.search(text)


def _compiled(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{expression!r} is no regular expression: {error}") from error
