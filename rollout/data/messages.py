"""Conversations in the forms that data have them, as the messages that a chat template takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evolpo import InputError
from evolpo.rollout.data.cells import check_row, parsed

Message = Mapping[str, Any]
"""`role`, `content` and whatever else the chat template of a model reads, such as `tool_calls`."""

_WRITTEN_TURN = re.compile(r"\s*\[?\s*\{\s*['\"](role|from)['\"]\s*:")
"""How messages begin that stand in a string."""
_WRITTEN = re.compile(r"\s*\[\s*\{|" + _WRITTEN_TURN.pattern)
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"}
ROLES |= {"observation": "tool", "function": "tool", "function_call": "assistant", "prompter": "user"}
KNOWN_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
"""Roles that chat templates know; others are written by some templates as they stand, and by others left out."""


def as_messages(value: Any, place: str, field: str) -> tuple[Message, ...] | None:
    """The messages of a cell; None if it holds something else, such as plain text.

    A list of `{role, content}` or of `{from, value}`, one such object, or either of them as JSON in a string. Nulls
    that a table filled in are left out, parts of a content that are text are joined.

    Raises:
        InputError: a message lacks its role or its text, or holds a picture.
    """
    if isinstance(value, str) and _WRITTEN.match(value):
        value = parsed(value)
        if isinstance(value, str) and _WRITTEN_TURN.match(value):
            message = f"begins with {value.strip()[:30]!r}, as messages do, and is no JSON; write them as JSON"
            raise InputError(f"{field}: {place}: {message}")
        check_row({"messages": value}, place, field)  # what stands in a string has not been looked at
    if isinstance(value, Mapping) and ("role" in value or "from" in value):
        value = _rows_of_lists(value)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    if not all(isinstance(one, Mapping) and ("role" in one or "from" in one) for one in value):
        return None
    return tuple(_message(one, f"{place}: message {index}", field) for index, one in enumerate(value, start=1))


def _rows_of_lists(value: Mapping[str, Any]) -> list[Any]:
    """One message, or the messages of an object of lists, as some tables keep lists of objects."""
    columns = list(value.values())
    if all(isinstance(column, list) for column in columns) and len({len(column) for column in columns}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return [value]


def _message(given: Mapping[str, Any], place: str, field: str) -> Message:
    message = {name: one for name, one in given.items() if one is not None}
    role = message.pop("from", None)
    role = message.get("role", role)
    content = message.pop("value", None)
    content = message.get("content", content)
    if not isinstance(role, str) or not role:
        raise InputError(f"{field}: {place} has no role; give user, assistant or system")
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        content = "".join(str(part["text"]) for part in content)
    if message.get("tool_calls"):
        message["tool_calls"] = _calls(message["tool_calls"])
        content = content or ""
    if not isinstance(content, str):
        raise InputError(f"{field}: {place} holds {type(content).__name__}, no text; mend or remove the row")
    return {**message, "role": _known(role), "content": content}


def _calls(value: Any) -> Any:
    """Calls of tools without nulls that a table filled in, their arguments as objects and not as JSON in a string.

    The chat templates of models write objects as JSON; those that want the string get it, see `with_text_arguments`.
    """
    calls = _without_nulls(parsed(value) if isinstance(value, str) else value)
    return [_each_function(one, _as_object) for one in calls] if isinstance(calls, list) else calls


def with_text_arguments(messages: Sequence[Message]) -> list[Message]:
    """The messages with the arguments of calls as JSON in a string, as servers of models give them."""
    return [
        {**one, "tool_calls": [_each_function(call, _as_text) for call in one["tool_calls"]]}
        if isinstance(one.get("tool_calls"), list)
        else one
        for one in messages
    ]


def _each_function(call: Any, change: Callable[[Any], Any]) -> Any:
    """A call with its arguments changed, whether they stand beside its name or under `function`."""
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _each_function(call["function"], change)}
    return {**call, "arguments": change(call["arguments"])} if "arguments" in call else call


def _as_object(arguments: Any) -> Any:
    found = parsed(arguments) if isinstance(arguments, str) else arguments
    return found if isinstance(found, Mapping) else arguments


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _known(role: str) -> str:
    """A role by its usual name, in whatever letters it is written."""
    lower = role.strip().lower()
    found = ROLES.get(lower, lower)
    return found if found in KNOWN_ROLES else role


def without_reply(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages up to the last one that is not the assistant's: what is to be answered."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    return messages[:end]


def transcript(messages: Sequence[Message]) -> str:
    """What a person reads: the user's text, if that is all but the system message; else all turns with their roles."""
    turns = [message for message in messages if message["role"] != "system"]
    if len(turns) == 1 and turns[0]["role"] == "user":
        return str(turns[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in turns)


def system_of(messages: Sequence[Message]) -> str | None:
    """The text of the system message, None if there is none."""
    return next((str(one["content"]) for one in messages if one["role"] == "system"), None)


def as_tools(value: Any, place: str, field: str) -> tuple[Mapping[str, Any], ...]:
    """The tools of a cell: a list of JSON schemas, or that list as JSON in a string; none for null or an empty one.

    Raises:
        InputError: it holds something else.
    """
    if isinstance(value, str) and value.strip():
        value = parsed(value)
    if value is None or value == "" or value == []:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        shown = json.dumps(value, default=str)[:60]
        raise InputError(f"{field}: {place}: {shown} is no list of tools; give a list of JSON schemas")
    return tuple(_without_nulls(one) for one in value)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value
