"""Which column is which: presets for the shapes that data sets have, and telling them by their columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolpo.rollout.data.cells import MISSING, cell, parsed
from evolpo.rollout.data.code import TESTS, holds_tests
from evolpo.rollout.data.options import ANSWERS, asks_for_a_choice

GSM8K = re.compile(r"####[ \t]*[^\n#]{1,40}\s*\Z")
NEARLY_ALL = 0.9
"""Share of answers with `####` before their end from which on it is taken for the mark of the final answer."""
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a source by what they are, None where it has none; all names may be dotted."""

    preset: str
    prompt: str | None = None
    answer: str | None = None
    system: str | None = None
    tools: str | None = None
    task: str | None = None
    further: str | None = None
    """Column with what the user says after the prompt, as `input` after `instruction`."""
    passage: str | None = None
    """Column with the text that the prompt asks about, which goes before it."""
    answer_pattern: str = ""

    def __str__(self) -> str:
        """The line that tells a user what was taken."""
        named = ("prompt", "answer", "passage", "system", "tools", "task")
        taken = [f"{role}={getattr(self, role)}" for role in named if getattr(self, role)]
        taken += [f"answer_pattern={self.answer_pattern}"] * bool(self.answer_pattern)
        return f"{self.preset} ({', '.join(taken) or 'no column'})"


@dataclass(frozen=True, slots=True)
class Preset:
    """One shape of data: how it is told, and the names under which its parts may stand, the first that is there."""

    needs: Sequence[Sequence[str]]
    """Of each of these groups one column must be there for the shape to be told."""
    prompt: Sequence[str]
    answer: Sequence[str] = ()
    task: Sequence[str] = ()
    further: Sequence[str] = ()
    answer_pattern: str = ""


_SYSTEM = ("system", "system_prompt")
_PASSAGES = ("passage", "context", "article", "paragraph", "body", "premise")
_ASKING = ("columns", "choices", "gsm8k")
"""Presets of questions, which may be asked about a passage."""
_CHOOSING = (
    "question",
    "question_stem",
    "prompt",
    "problem",
    "query",
    "messages",
    "instruction",
    "input",
    "text",
    "goal",
)
_PROMPTS = ("prompt", "problem", "question", "query", "messages", "conversations", "instruction", "input", "text")

PRESETS: Mapping[str, Preset] = {
    "verl": Preset(
        (("reward_model.ground_truth",), ("prompt", "raw_prompt")),
        ("prompt", "raw_prompt"),
        ("reward_model.ground_truth",),
        ("data_source",),
    ),
    "ifeval": Preset(
        (("instruction_id_list", "ground_truth.func_name"), ("prompt", "messages")),
        ("prompt", "messages"),
        ("ground_truth",),
    ),
    "code": Preset(
        (TESTS,),
        (
            *("question_content", "problem_description", "instruct_prompt", "question", "problem", "description"),
            *("text", "prompt", "instruction", "query", "messages"),
        ),
        ("answer",),
    ),
    "choices": Preset(
        ((*_CHOOSING,),),
        _CHOOSING,
        ANSWERS,
    ),
    "gsm8k": Preset((("question",), ("answer",)), ("question",), ("answer",), answer_pattern="####"),
    "openrlhf": Preset(
        (("context_messages", "input"), ("label", "context_messages")), ("context_messages", "input"), ("label",)
    ),
    "trl": Preset((("prompt",), ("solution",)), ("prompt", "messages"), ("solution", "ground_truth", "answer")),
    "sharegpt": Preset((("conversations",),), ("conversations",), ("answer", "solution", "ground_truth")),
    "alpaca": Preset((("instruction",), ("output",)), ("instruction",), ("output",), further=("input",)),
    "columns": Preset(
        (_PROMPTS,),
        _PROMPTS,
        (
            *("answer.aliases", "answer", "ground_truth", "final_answer", "expected_answer", "reference_answer"),
            *(
                "gold_answer",
                "correct_answer",
                "golden_answers",
                "solution",
                "label",
                "target",
                "verification_info.ground_truth",
                "answers.text",
                "answers_spans.spans",
            ),
        ),
    ),
}


def recognised(row: Mapping[str, Any]) -> str | None:
    """Name of the first preset whose columns a row has, None if there is none.

    Args:
        row: a row, or several merged into one, so that a null in the first does not hide a column.
    """
    for name, preset in PRESETS.items():
        if name in _SPECIAL and not _SPECIAL[name](row):
            continue
        if all(_first(row, group) for group in preset.needs):
            return name
    return None


_SPECIAL: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "code": holds_tests,
    "choices": asks_for_a_choice,
    "gsm8k": lambda row: isinstance(row.get("answer"), str) and bool(GSM8K.search(row["answer"])),
    "trl": lambda row: row.get("answer") is None,
}


def ends_with_hashes(answers: Sequence[Any]) -> bool:
    """Whether (nearly) all of these answers that are texts, or lists of them, end with `####` and a short answer."""
    texts = [text for one in answers for text in (one if isinstance(one, list) else [one]) if isinstance(text, str)]
    return bool(texts) and sum(GSM8K.search(text) is not None for text in texts) >= NEARLY_ALL * len(texts)


def columns_of(preset: str, row: Mapping[str, Any]) -> Columns:
    """What each column of a row is by a preset; see `recognised` for the row."""
    known = PRESETS[preset]
    prompt = _first(row, known.prompt)
    return Columns(
        preset,
        prompt=prompt,
        answer=_first(row, known.answer),
        system=next((name for name in _SYSTEM if isinstance(row.get(name), str)), None),
        tools="tools" if _looks_like_tools(row.get("tools")) else None,
        task=_first(row, known.task),
        further=_first(row, known.further),
        passage=_passage(row, prompt) if preset in _ASKING else None,
        answer_pattern=known.answer_pattern,
    )


def passage_text(value: Any) -> str | None:
    """The text of a passage, or of a list of them; None for what is neither."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = "\n\n".join(value)
    return value.strip() if isinstance(value, str) else None


def _passage(row: Mapping[str, Any], prompt: str | None) -> str | None:
    found = _first(row, _PASSAGES)
    return found if found is not None and found != prompt and passage_text(row[found]) != "" else None


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of the names that is a column with something in it; else by the same name in other letters."""
    for name in names:
        if cell(row, name) not in (MISSING, None):
            return name
    by_lower = {name.lower(): name for name, value in row.items() if value is not None}
    return next((by_lower[name] for name in names if name in by_lower), None)


def _looks_like_tools(value: Any) -> bool:
    tools = parsed(value) if isinstance(value, str) else value
    return isinstance(tools, list) and bool(tools) and all(isinstance(one, Mapping) for one in tools)
