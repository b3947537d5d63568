"""From a row to a problem: which column is what, and what their cells may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from evolpo import InputError
from evolpo.rl.data import LENGTH_ALPHA, Answer
from evolpo.rollout.data.answers import HASHES, extracted, plain
from evolpo.rollout.data.cells import MISSING, cell, check_prompt, check_row, column, names_of, opened
from evolpo.rollout.data.code import has_tests, holds_tests, with_what_tests_call
from evolpo.rollout.data.files import Placed
from evolpo.rollout.data.messages import (
    KNOWN_ROLES,
    Message,
    as_messages,
    as_tools,
    system_of,
    transcript,
    without_reply,
)
from evolpo.rollout.data.options import letter_of, options_of, with_options
from evolpo.rollout.data.presets import (
    AUTO,
    GSM8K,
    PRESETS,
    Columns,
    columns_of,
    ends_with_hashes,
    passage_text,
    recognised,
)
from evolpo.rollout.data.problem import Problem, problem_id, row_key


class RowOptions(Protocol):
    """What a source says about its rows; see `SourceConfig`."""

    preset: str
    prompt_column: str | None
    answer_column: str | None
    answer_pattern: str | None
    system_column: str | None
    tools_column: str | None
    passage_column: str | None
    difficulty_column: str
    difficulty: str
    task_column: str | None
    task: str


def reader_for(options: RowOptions, head: Sequence[Placed], where: str, name: str, index: int) -> Reader:
    """The reader of a source, its columns told from its first rows.

    Args:
        options: what the source says itself; that goes before what the preset says.
        head: the first rows and where they stand; at least one.
        where: full name of the source.
        name: of the source, for the ids.
        index: of the source in its list.

    Raises:
        InputError: a column that was named, or one with the problem, is not there.
    """
    merged: dict[str, Any] = {}
    for _, row in reversed(head):
        merged |= {key: value for key, value in row.items() if value is not None or key not in merged}
    preset = options.preset if options.preset != AUTO else (recognised(merged) or "columns")
    columns = columns_of(preset, merged)
    columns = replace(
        columns,
        prompt=_chosen(options.prompt_column, columns.prompt),
        answer=_chosen(options.answer_column, columns.answer),
        system=_chosen(options.system_column, columns.system),
        tools=_chosen(options.tools_column, columns.tools),
        passage=_chosen(options.passage_column, columns.passage),
        task=None if options.task else _chosen(options.task_column, columns.task),
        answer_pattern=_pattern(options, columns),
    )
    lenient = False
    if options.answer_pattern is None and columns.answer and (options.preset == AUTO or not columns.answer_pattern):
        # Told by the answers themselves, so that one without the mark may be right as it is.
        lenient = ends_with_hashes([cell(row, columns.answer) for _, row in head])
        columns = replace(columns, answer_pattern=HASHES) if lenient else columns
    if columns.prompt is None:
        for place, row in head:
            check_row(row, place, where)  # a row of pictures is that first, whatever columns are missing
        known = ", ".join(PRESETS[preset].prompt)
        message = (
            f"{head[0][0]} has none of the columns {known}; it has: {', '.join(names_of(merged)) or 'none'}; name one"
        )
        raise InputError(f"{where}.prompt_column: {message}")
    code = columns.preset == "code" or holds_tests(merged)
    return Reader(columns, options, where, name, index, code=code, lenient=lenient)


def _chosen(named: str | None, told: str | None) -> str | None:
    return told if named is None else named or None


def _pattern(options: RowOptions, columns: Columns) -> str:
    if options.answer_pattern is not None:
        return options.answer_pattern
    # A pattern belongs to the column that the preset takes.
    return columns.answer_pattern if options.answer_column in (None, columns.answer) else ""


@dataclass
class Reader:
    """Makes problems of the rows of one source."""

    columns: Columns
    options: RowOptions
    where: str
    name: str
    index: int
    code: bool = False
    """Whether the rows hold tests of programs."""
    lenient: bool = False
    """Whether an answer without the pattern is taken as it is."""
    counted: Counter[str] = field(default_factory=Counter)
    """How many rows were taken in which way, by the line that says so."""
    first: dict[str, str] = field(default_factory=dict)
    """Of these lines that warn: where the first such row stands."""

    def notes(self) -> list[str]:
        """What a user should know about how the rows were taken."""
        return [
            f"{count} {line}" + (f", first {self.first[line]}" if line in self.first else "")
            for line, count in self.counted.items()
        ]

    def _count(self, line: str, place: str = "") -> None:
        self.counted[line] += 1
        if place:
            self.first.setdefault(line, place)

    def problem(self, row: Mapping[str, Any], place: str) -> tuple[str, Problem]:
        """The problem of a row, and what tells it from others (see `row_key`).

        Raises:
            InputError: a column is not there, or holds something else than it should; the message names the row.
        """
        check_row(row, place, self.where)
        text, messages = self._prompt(row, place)
        system = self._system(row, place, messages)
        if messages and system and system_of(messages) is None:
            messages = ({"role": "system", "content": system}, *messages)
        metadata = opened({name: value for name, value in row.items() if name not in self._used()})
        if LENGTH_ALPHA in metadata:
            message = (
                f"column {LENGTH_ALPHA!r} would go before the strength that the reward `length` is given; rename it"
            )
            raise InputError(f"{self.where}: {place}: {message}")
        if self.columns.preset == "choices":
            metadata["choices"] = self._options(row, place)
        problem = Problem(
            "",
            text,
            self._answer(row, place),
            self._level(row, place),
            metadata,
            self.index,
            self._task(row, place),
            system=None if messages else system,
            messages=messages,
            tools=self._tools(row, place),
            place=place,
            code=self.code and has_tests(row),
        )
        key = row_key(problem)
        return key, replace(problem, id=problem_id(self.name, key))

    def _used(self) -> set[str | None]:
        """Columns that do not stand among the metadata again."""
        one = self.columns
        return {one.prompt, one.answer, one.system, one.tools, one.further, self.options.difficulty_column}

    def _prompt(self, row: Mapping[str, Any], place: str) -> tuple[str, tuple[Message, ...]]:
        name = self.columns.prompt or ""
        field = f"{self.where}.prompt_column"
        value = column(row, name, place, field)
        messages = as_messages(value, place, field)
        if messages is None:
            if not isinstance(value, str) or not value.strip():
                kind = "empty text" if isinstance(value, str) else f"a {type(value).__name__}"
                message = f"column {name!r} holds {kind}; it must hold the problem's text, or messages"
                raise InputError(f"{field}: {place}: {message}")
            further = cell(row, self.columns.further) if self.columns.further else None
            text = f"{value}\n{further}" if isinstance(further, str) and further.strip() else value
            check_prompt(text, name, place, self.where)
            if self.columns.preset == "code" and (more := with_what_tests_call(text, row)) != text:
                self._count("prompts end with the tests or the starter code of their row, which name what is called")
                text = more
            if self.columns.preset == "choices" and (shown := with_options(text, self._options(row, place))) != text:
                self._count("questions are followed by the options of their row")
                text = shown
            return self._with_passage(text, row, place), ()
        return self._conversation(messages, name, place, field)

    def _with_passage(self, text: str, row: Mapping[str, Any], place: str) -> str:
        """The text below the passage that it asks about, unless it has that itself."""
        name, field = self.columns.passage, f"{self.where}.passage_column"
        if name is None or name == self.columns.prompt:
            return text
        value = column(row, name, place, field) if self.options.passage_column else row.get(name)
        passage = "" if value is None else passage_text(value)
        if passage is None:
            kind = f"a {type(value).__name__}"
            if self.options.passage_column:
                raise InputError(
                    f"{field}: {place}: column {name!r} holds {kind}; it must hold text, or a list of texts"
                )
            self._count(f"rows have {kind} in column {name!r}, which the model does not see", place)
        if not passage or passage in text:
            return text
        check_prompt(passage, name, place, self.where)
        self._count(f"questions stand below what column {name!r} of their row holds")
        return f"{passage}\n\n{text}"

    def _options(self, row: Mapping[str, Any], place: str) -> dict[str, str]:
        found = options_of(row)
        if not found:
            raise InputError(f"{self.where}: {place}: has no options, or one that is empty; see docs/data.md")
        return found

    def _conversation(
        self, messages: tuple[Message, ...], name: str, place: str, field: str
    ) -> tuple[str, tuple[Message, ...]]:
        asked = without_reply(messages)
        self._count("prompts are messages, which go through the chat template as they are")
        if len(asked) < len(messages):
            self._count("conversations end with a turn of the assistant, which was left out")
        said = [one["content"].strip() for one in asked if one["role"] == "user"]
        if not said or not said[-1]:
            what = "no message of a user" if not said else "a last message of the user that is empty"
            raise InputError(f"{field}: {place}: column {name!r} holds {what}")
        for one in asked:
            check_prompt(one["content"], name, place, self.where)
        if not all(said):
            self._count("conversations have an empty message of the user", place)
        for role in sorted({one["role"] for one in asked} - KNOWN_ROLES):
            self._count(f"conversations have turns of {role!r}, a role that models are not trained with", place)
        return transcript(asked), asked

    def _system(self, row: Mapping[str, Any], place: str, messages: tuple[Message, ...]) -> str | None:
        name = self.columns.system
        if name is None:
            return None
        field = f"{self.where}.system_column"
        value = column(row, name, place, field) if self.options.system_column else row.get(name)
        if value is not None and not isinstance(value, str):
            raise InputError(f"{field}: {place}: column {name!r} holds a {type(value).__name__}; it must hold text")
        check_prompt(value or "", name, place, self.where)
        own = system_of(messages)
        if value and own is not None and own != value:
            message = f"column {name!r} and the messages have different system messages; give one of them"
            raise InputError(f"{field}: {place}: {message}")
        return value

    def _answer(self, row: Mapping[str, Any], place: str) -> Answer:
        name, field = self.columns.answer, f"{self.where}.answer_column"
        if name is None:
            return None
        value = plain(cell(row, name))
        if value is MISSING:
            if not self.options.answer_column:
                return None
            names = ", ".join(names_of(row))
            message = f'has no column {name!r}; it has: {names}; use "" if the data has no answers'
            raise InputError(f"{field}: {place} {message}")
        if isinstance(value, list) and None in value:
            self._count("answers are lists with nulls, which were left out", place)
            value = [one for one in value if one is not None] or None
        if self.columns.preset == "choices" and value is not None:
            return self._letters(value, row, place)
        found: Answer = self._extracted(value, place)
        return found

    def _letters(self, value: Any, row: Mapping[str, Any], place: str) -> str | list[str]:
        """The letters of the options that a cell names."""
        letters = []
        for one in value if isinstance(value, list) else [value]:
            letter = letter_of(one, row)
            if letter is None:
                options = ", ".join(self._options(row, place))
                mend = f"names none of the options {options}; mend it, or set preset to columns to take it as it is"
                field = f"{self.where}.answer_column"
                raise InputError(f"{field}: {place}: {one!r} in column {self.columns.answer!r} {mend}")
            letters.append(letter)
        return letters if isinstance(value, list) else letters[0]

    def _extracted(self, value: Any, place: str) -> Any:
        pattern = self.columns.answer_pattern
        if self.lenient and isinstance(value, list):
            return [self._extracted(one, place) for one in value]
        if self.lenient and isinstance(value, str) and pattern not in value:
            self._count(f"answers have no {pattern} and are taken whole", place)
            return value
        if not pattern and isinstance(value, str) and self.options.answer_pattern is None and GSM8K.search(value):
            self._count(f"answers end with {HASHES} and are taken whole; set answer_pattern for what follows", place)
        return extracted(value, pattern, place, f"{self.where}.answer_pattern")

    def _level(self, row: Mapping[str, Any], place: str) -> str:
        name = self.options.difficulty_column
        return named(column(row, name, place, f"{self.where}.difficulty_column")) if name else self.options.difficulty

    def _task(self, row: Mapping[str, Any], place: str) -> str:
        name = self.columns.task
        if name is None:
            return self.options.task
        value = column(row, name, place, f"{self.where}.task_column") if self.options.task_column else cell(row, name)
        return "" if value is MISSING else named(value)

    def _tools(self, row: Mapping[str, Any], place: str) -> tuple[Mapping[str, Any], ...]:
        name, field = self.columns.tools, f"{self.where}.tools_column"
        if name is None:
            return ()
        value = column(row, name, place, field) if self.options.tools_column else row.get(name)
        return as_tools(value, place, field)


def named(value: Any) -> str:
    """A cell as the name of a level or a task; null is none, and 3.0 is 3, which a table with nulls makes of it."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
