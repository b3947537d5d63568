"""Does the response match a regular expression?"""

from __future__ import annotations

import re
from typing import Literal, get_args

from evolpo.rewards.answers.accepted import accepted_answers
from evolpo.rewards.base import Sample, Score, sample_reward

Mode = Literal["full", "search"]


@sample_reward(isolate=True)
def pattern_match(sample: Sample, *, pattern: str = "", mode: Mode = "full") -> Score:
    """1 if the response matches the pattern, else 0.

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
    if not pattern and not sample.answer:
        raise ValueError("there is no pattern: set options.pattern, or give the prompt a reference answer")
    if mode not in get_args(Mode):
        raise ValueError(f"mode {mode!r} is none of {', '.join(get_args(Mode))}")
    text = sample.text.strip()
    found = None
    for expression in [pattern] if pattern else accepted_answers(sample.answer):
        try:
            compiled = re.compile(expression)
        except re.error as error:
            raise ValueError(f"{expression!r} is no regular expression: {error}") from error
        found = found or (compiled.fullmatch(text) if mode == "full" else compiled.search(text))
    return Score(float(found is not None), artifacts={"match": found.group()} if found else {})
