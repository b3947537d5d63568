"""Responses of a file with their prompts, as rewards take them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.rewards.base import Sample
from evolpo.rollout.data.files import read_rows
from evolpo.rollout.data.messages import Message, as_messages, transcript, without_reply

RESPONSES = ("response", "text", "completion", "output")
"""Columns that may hold the response; the first that a row has does."""
COLUMNS = (
    *("prompt", "response", "text", "answer", "difficulty", "group"),
    *("token_count", "token_ids", "truncated", "failures"),
)
"""Columns that do not go into the metadata."""
KINDS = {dict: "an object", int: "a whole number", bool: "true or false", list: "a list of whole numbers"}


def read_samples(path: Path) -> tuple[list[Sample], list[str]]:
    """Samples of a file, in any format that `read_rows` knows, and the name of each one's group.

    Raises:
        InputError: no such file, no lines, or a line that is no JSON object or lacks a column.
    """
    rows = [_row(row, place) for place, row in read_rows(str(path), "file")]
    if not rows:
        raise InputError(f"file: {path} has no lines")
    prompt_of: dict[str, str] = {}
    for row in rows:
        if prompt_of.setdefault(_group(row), row["prompt"]) != row["prompt"]:
            raise InputError(f"file: {path} group {_group(row)!r} has responses to more than one prompt")
    return [_sample(row) for row in rows], [_group(row) for row in rows]


def _group(row: Mapping[str, Any]) -> str:
    return str(row["prompt"] if row.get("group") is None else row["group"])


def _row(row: dict[str, Any], place: str) -> dict[str, Any]:
    where = f"file: {place}"
    row = _with_texts(row, place)
    for column in ("prompt", "response"):
        if not isinstance(row.get(column), str):
            found = ", ".join(name for name in row if row[name] is not None) or "none"
            names = "`prompt`, or `messages`" if column == "prompt" else ", ".join(f"`{one}`" for one in RESPONSES)
            raise InputError(f"{where}: {column!r} is missing or no text; it has {found}; the {column} is {names}")
    for column, kind in (("metadata", dict), ("token_count", int), ("truncated", bool), ("token_ids", list)):
        if row.get(column) is None:
            row.pop(column, None)
        elif not isinstance(row[column], kind) or (kind is list and not all(type(one) is int for one in row[column])):
            raise InputError(f"{where}: {column!r} is {row[column]!r}; give {KINDS[kind]} or leave it out")
    return row


def _with_texts(row: dict[str, Any], place: str) -> dict[str, Any]:
    """The row with its prompt and its response as texts, where conversations hold them.

    The prompt is what training would show: the conversation up to the assistant's last turn. That turn is the response,
    unless another column has one.
    """
    row = dict(row)
    asked = "prompt" if row.get("prompt") is not None else "messages"
    answered = next((name for name in RESPONSES if row.get(name) is not None), None)
    response = row.pop(answered) if answered else None
    turns = as_messages(row.get(asked), place, "file")
    if turns is not None:
        row.pop(asked)
        row["prompt"] = transcript(without_reply(turns))
        response = _last_words(turns) if response is None else response
    reply = None if isinstance(response, str) else as_messages(response, place, "file")
    row["response"] = response if reply is None else _last_words(reply)
    return row


def _last_words(turns: tuple[Message, ...]) -> str | None:
    """What the assistant said last; None if the last turn is not its."""
    return str(turns[-1]["content"]) if turns[-1]["role"] == "assistant" else None


def _sample(row: dict[str, Any]) -> Sample:
    others = {name: value for name, value in row.items() if name not in COLUMNS}
    inner = others.pop("metadata", {})
    token_ids = tuple(row.get("token_ids", ()))
    return Sample(
        prompt=row["prompt"],
        text=row["response"],
        answer=row.get("answer"),
        difficulty=str(row.get("difficulty") or ""),
        metadata={**inner, **others},
        token_count=row.get("token_count") or len(token_ids) or len(row["response"].split()),
        truncated=row.get("truncated", False),
        token_ids=token_ids,
    )
