"""One problem, and when two of them are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evolpo.rl.data import Answer
from evolpo.rollout.data.messages import Message


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, before any tokenizer has seen it."""

    id: str
    """Hash of the source's name and of all that makes the problem: the same problem always has the same id."""
    text: str
    """The problem as its source words it; of a conversation, what a person would read."""
    answer: Answer = None
    """The reference answer with the type that the source gives it, None if there is none."""
    difficulty: str = ""
    """Name of the difficulty level, empty if the source has none."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """reasoning_gym: `family` and the complete `entry`, as its verifier wants it; else the remaining columns."""
    source: int = 0
    """Index of the source in its list."""
    task: str = ""
    """Name of the task, which chooses among the components of the reward; empty if the source has none."""
    system: str | None = None
    """The row's own system message, None if it has none."""
    messages: tuple[Message, ...] = ()
    """The conversation, where the source gives one; it goes through the chat template as it is."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """JSON schemas of the tools that the chat template is to offer."""
    place: str = ""
    """Where it stands in its source, for messages."""
    code: bool = False
    """Whether it asks for a program, which tests judge."""


def normalise(text: str) -> str:
    """The text with each run of white space as one blank: two texts are the same if these are equal."""
    return " ".join(text.split())


def row_key(problem: Problem) -> str:
    """What tells a row from others: two rows that are equal in all that a model and a reward see are one problem."""
    conversation = [[one["role"], normalise(one["content"])] for one in problem.messages] or normalise(problem.text)
    rest = [problem.answer, problem.system, problem.task, problem.difficulty, dict(problem.metadata)]
    calls = [{k: v for k, v in one.items() if k not in ("role", "content")} for one in problem.messages]
    return json.dumps([conversation, calls, problem.tools, rest], sort_keys=True, default=repr)


def contradictions(problems: Iterable[Problem]) -> str:
    """A line about prompts that stand among the problems with answers that differ; empty if there are none.

    All of these stay: which answer is right is nothing that could be told here, and a model is taught both.
    """
    by_prompt: dict[str, dict[str, Problem]] = {}
    for one in problems:
        if one.answer is not None:
            alone = replace(one, answer=None, metadata={}, difficulty="")
            by_prompt.setdefault(row_key(alone), {}).setdefault(_answer_key(one.answer), one)
    found = [list(answers.values()) for answers in by_prompt.values() if len(answers) > 1]
    if not found:
        return ""
    first, second = found[0][:2]
    prompts = "1 prompt stands" if len(found) == 1 else f"{len(found)} prompts stand"
    shown = f"{_short(first.answer)} ({first.place}) and {_short(second.answer)} ({second.place})"
    return f"warning: {prompts} there with answers that differ, e.g. {shown}; all are kept"


def _answer_key(answer: Answer) -> str:
    """Equal for answers that no reward tells apart: 72, 72.0 and " 72 "."""
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    return " ".join(str(answer).split())


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:40]}..."


def problem_id(source_name: str, key: str) -> str:
    """16 hexadecimal digits for a problem of a source."""
    return hashlib.sha256(f"{source_name}\n{key}".encode(errors="surrogatepass")).hexdigest()[:16]
