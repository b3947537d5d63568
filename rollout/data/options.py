"""Multiple choice: the options of a row, shown below the question, and the letter of the right one."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from evolpo.rollout.data.cells import MISSING, cell, parsed

COLUMNS = ("choices", "options", "endings")
"""Columns that hold all options: a list of texts, a mapping from letter to text, or one with `label` and `text`."""
COLUMN_EACH = (
    ("A", "B", "C", "D", "E"),
    ("opa", "opb", "opc", "opd", "ope"),
    ("option_a", "option_b", "option_c", "option_d", "option_e"),
    ("option1", "option2", "option3", "option4", "option5"),
    ("choice1", "choice2", "choice3", "choice4", "choice5"),
    ("sol1", "sol2"),
)
"""Columns that hold an option each; at least the first two are there."""
ANSWERS = (
    "answerKey",
    "answer_key",
    "answer_idx",
    "answer",
    "answer_index",
    "label",
    "correct",
    "cop",
    "gold",
    "target",
)
"""Columns that may name the right option."""


def options_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Letter -> text of the options of a row, empty if it has none; letters are given in order, whatever labels say."""
    return dict(zip(ascii_uppercase, (text for _, text in _listed(row)), strict=False))


def letter_of(answer: Any, row: Mapping[str, Any]) -> str | None:
    """The letter of the option that an answer names: a label, an option's text or its place, counted from 0."""
    listed = _listed(row)
    if isinstance(answer, bool) or not listed:
        return None
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if isinstance(answer, int):
        return ascii_uppercase[answer] if 0 <= answer < len(listed) else None
    if not isinstance(answer, str):
        return None
    said = answer.strip()
    letters = ascii_uppercase[: len(listed)]
    named = any(label for label, _ in listed)
    labels = {label if named else letter: letter for letter, (label, _) in zip(letters, listed, strict=True)}
    if (letter := labels.get(said) or labels.get(said.strip("(). ").upper())) is not None:
        return letter
    same = [letter for letter, (_, text) in zip(letters, listed, strict=True) if text.strip() == said]
    if len(same) == 1:
        return same[0]
    return letter_of(int(said), row) if said.isascii() and said.isdecimal() else None


def with_options(text: str, options: Mapping[str, str]) -> str:
    """The question with its options on lines of their own, unless it holds all of them already."""
    if all(one.strip() in text for one in options.values()):
        return text
    return "\n".join([text.rstrip(), *(f"{letter}. {one.strip()}" for letter, one in options.items())])


def _listed(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label, as the data have it, and text of each option; none if there are none, or if a text is empty."""
    for name in COLUMNS:
        value = row.get(name)
        pairs = _pairs(parsed(value) if isinstance(value, str) else value)
        if 2 <= len(pairs) <= len(ascii_uppercase):
            return pairs if all(text for _, text in pairs) else []
    for names in COLUMN_EACH:
        found = [_text(row.get(name)) for name in names]
        given = found[: found.index("")] if "" in found else found
        if len(given) >= 2:
            return [("", text) for text in given]
    return []


def _pairs(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and "text" in value:
        texts, labels = value["text"], value.get("label")
        texts = texts if isinstance(texts, list) else []
        labels = labels if isinstance(labels, list) and len(labels) == len(texts) else [""] * len(texts)
        return [(str(label), _text(text)) for label, text in zip(labels, texts, strict=True)]
    if isinstance(value, Mapping):
        return [(str(label), _text(text)) for label, text in value.items()]
    return [(_label(one), _text(one)) for one in value] if isinstance(value, list) else []


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("text", "content", "value") if name in value), None)
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _label(value: Any) -> str:
    return str(value.get("label", value.get("id", ""))) if isinstance(value, Mapping) else ""


def asks_for_a_choice(row: Mapping[str, Any]) -> bool:
    """Whether a row has options and one of `ANSWERS` names one of them."""
    return bool(options_of(row)) and any(
        letter_of(cell(row, name), row) for name in ANSWERS if cell(row, name) not in (MISSING, None)
    )
