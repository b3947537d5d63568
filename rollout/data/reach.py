"""What of a conversation reaches the model: what a chat template leaves out, and text that becomes control tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evolpo import InputError
from evolpo.rollout.data.messages import Message
from evolpo.rollout.data.problem import normalise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tools = Sequence[Mapping[str, Any]]
Write = Callable[[Sequence[Message], Tools], str]
"""From messages and tools to the text that the tokenizer gets."""

CALLS = ("tool_calls", "function_call")
"""Fields of a message with what the assistant called."""
_OTHER = "evolpo puts other words here"
"""Stands for a message when a template is asked whether it heeds it."""


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts that the tokenizer turns into a special token wherever they stand, the longest first."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(special | set(tokenizer.all_special_tokens), key=len, reverse=True)


class Reach:
    """Looks at conversations beside what is written of them, and counts what a user should know."""

    def __init__(self, write: Write, control: Iterable[str], template: str) -> None:
        """Remember how prompts are written.

        Args:
            write: the chat template, or what stands for it.
            control: texts that become control tokens.
            template: how messages name the chat template.
        """
        self._write = write
        self._control = re.compile("|".join(map(re.escape, control)) or r"(?!)")
        self._template = template
        self._counted: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def look(self, messages: Sequence[Message], tools: Tools, text: str, place: str = "") -> None:
        """Compare a conversation with what was written of it.

        A template may change what it gets, e.g. leave out the thoughts of earlier turns; it leaves out a message if it
        writes the same text with other words in its place.

        Args:
            messages: of the conversation.
            tools: that it offers.
            text: what `write` made of both.
            place: where the conversation stands, for messages.

        Raises:
            InputError: the last message of the user, tools or calls of tools are left out.
        """
        row = f"; the row is {place}" if place else ""
        out = f"data.chat_template: {self._template} leaves out"
        asked = max((i for i, one in enumerate(messages) if one["role"] == "user"), default=None)
        for index, message in enumerate(messages):
            for found in set(self._control.findall(message["content"])):
                self._count(f"prompts hold {found} in their text, which the tokenizer takes for a control token", place)
            if not self._left_out(messages, index, tools, text):
                continue
            if index == asked:
                raise InputError(
                    f"data.chat_template: {self._template} leaves out what the user says; give another{row}"
                )
            role = message["role"]
            self._count(f"prompts have a message of {role!r} that {self._template} leaves out", place)
        if tools and self._same(messages, (), text):
            raise InputError(f'{out} the tools of the data; give another one, or tools_column: ""{row}')
        if any(one.get(name) for one in messages for name in CALLS):
            silent = [{name: part for name, part in one.items() if name not in CALLS} for one in messages]
            if self._same(silent, tools, text):
                raise InputError(f"{out} the calls of tools that the messages hold; give another one{row}")

    def notes(self) -> list[str]:
        """A line a kind of what was found: how many prompts, and where the first stands."""
        return [
            f"warning: {count} {line}" + (f", first {self._first[line]}" if self._first[line] else "")
            for line, count in self._counted.items()
        ]

    def _count(self, line: str, place: str) -> None:
        self._counted[line] += 1
        self._first.setdefault(line, place)

    def _left_out(self, messages: Sequence[Message], index: int, tools: Tools, text: str) -> bool:
        content = messages[index]["content"].strip()
        if not content or content in text or normalise(content) in normalise(text):
            return False
        other = [{**one, "content": _OTHER} if i == index else one for i, one in enumerate(messages)]
        return self._same(other, tools, text)

    def _same(self, messages: Sequence[Message], tools: Tools, text: str) -> bool:
        try:
            return self._write(messages, tools) == text
        except InputError:  # it refuses them, so that it has looked at what was changed
            return False
