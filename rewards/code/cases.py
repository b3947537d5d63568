"""Test cases for programs: what they get, what they must give, and when two results are the same.

`evolpo.rewards.code.shapes` makes them of the forms that public data sets have.

Results are JSON values that the sandbox hands out, never objects of the program, so nothing of the program takes part
in a comparison.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RELATIVE_TOLERANCE = 1e-6
ABSOLUTE_TOLERANCE = 1e-9

_NAME = re.compile(r"[A-Za-z_$][\w$]*(?:\.[A-Za-z_$][\w$]*)?", re.ASCII)
_DECIMAL = re.compile(r"[-+]?\d*\.\d+(?:[eE][-+]?\d+)?", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class StdinCase:
    """A whole program: it reads `stdin` and must print `stdout`."""

    stdin: str
    stdout: str

    def mismatch(self, output: bytes) -> str | None:
        """Why this output is wrong, None if it is right (see `same_text`)."""
        text = output.decode(errors="replace")
        return None if same_text(self.stdout, text) else _difference(self.stdout, text)


@dataclass(frozen=True, slots=True)
class CallCase:
    """A function, by its name or as `Class.method`: called with `args`, it must return `result`.

    A name that the program does not have is also found as a method of its class `Solution`.
    """

    function: str
    args: Sequence[Any]
    result: Any
    or_first: bool = False
    """Whether the only element of `result` is right as well: some data sets wrap results, others do not."""
    imports: bool = False
    """Whether the program may use names of the standard library that its prompt's platform imports for it."""

    def mismatch(self, output: bytes) -> str | None:
        """Why this output, the returned value as JSON, is wrong; None if it is right (see `same`)."""
        try:
            value = parse_json(output)
        except ValueError as error:
            return str(error)
        wrapped = self.or_first and isinstance(self.result, list) and len(self.result) == 1
        right = same(self.result, value) or (wrapped and same(self.result[0], value))
        return None if right else _difference(self.result, value)


@dataclass(frozen=True, slots=True)
class ScriptCase:
    """Assertions in Python about what the program defines. They run in a process that the program cannot reach."""

    script: str
    """Assertions, functions `test_*`, test classes, or a function `check(candidate)`."""
    entry: str = ""
    """Name of the candidate; empty if the script has no `check`."""
    prelude: str = ""
    """What stands before the program and before the tests: imports and helpers of the prompt."""

    def mismatch(self, output: bytes) -> str | None:
        """Why the program fails; None if it does not. Raises ValueError if the tests cannot run at all."""
        try:
            verdict = parse_json(output)
        except ValueError:
            return "the tests came to no end"
        if isinstance(verdict, dict) and verdict.get("broken"):
            raise ValueError(str(verdict["broken"]))
        fault = verdict.get("fault", "the tests came to no end") if isinstance(verdict, dict) else "no verdict"
        return None if fault is None else str(fault)


@dataclass(frozen=True, slots=True)
class QueryCase:
    """One SQL statement: on a database that the script `setup` made, it must give `rows`."""

    setup: str
    rows: Sequence[Sequence[Any]]
    ordered: bool

    def mismatch(self, output: bytes) -> str | None:
        """Why this output, a JSON list of rows, is wrong; None if it is right. Names of columns do not count."""
        try:
            rows = parse_json(output)
        except ValueError as error:
            return str(error)
        expected: list[Any] = [list(row) for row in self.rows]
        found: list[Any] = rows
        if not self.ordered:
            expected, found = sorted(expected, key=_row_key), sorted(found, key=_row_key)
        return None if same(expected, found) else _difference(self.rows, rows)


Case = StdinCase | CallCase | QueryCase | ScriptCase


def parse_cases(tests: Any) -> list[Case]:
    """The cases of one prompt, from `metadata["tests"]`: a list of objects, or that list as a JSON string.

    The fields tell the kind: `stdin` and `stdout`; `function`, `args` and `result`; `setup`, `rows` and, if the order
    of the rows counts, `ordered`. Fields that are null are as good as not there: tables fill them in.

    Raises:
        ValueError: a field is missing, unknown or of a wrong type; the message names it.
    """
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except ValueError as error:
            raise ValueError(f"metadata['tests'] is a string, but no JSON: {error}") from error
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
        raise ValueError("metadata['tests'] must be a list of test cases, at least one")
    return [_parse_case(test, f"metadata['tests'][{index}]") for index, test in enumerate(tests)]


def _parse_case(test: Any, name: str) -> Case:
    if not isinstance(test, Mapping):
        raise ValueError(f"{name} must be an object, not {type(test).__name__}")
    # A table has one set of columns for all rows, and nulls where a case has no such field.
    filled = {key: value for key, value in test.items() if value is not None}
    if "function" in filled and test.get("result", ...) is None:
        filled["result"] = None
    if "stdout" in filled and "stdin" in test:
        filled.setdefault("stdin", "")
    for marker, parse in _KINDS.items():
        if marker in filled:
            return parse(_Fields(filled, name))
    raise ValueError(f"{name} needs stdin and stdout; function, args and result; or setup and rows")


class _Fields:
    """Fields of one case, each taken once; the errors carry full names."""

    def __init__(self, test: Mapping[str, Any], name: str) -> None:
        self._rest = dict(test)
        self.name = name

    def take(self, key: str, kind: type, described: str, or_json: bool = False) -> Any:
        """A field that must be there, of this type; or, a list, as JSON in a string: a table has one type a column."""
        if key not in self._rest:
            raise ValueError(f"{self.name}.{key} is missing")
        value = self._rest.pop(key)
        if or_json and isinstance(value, str) and value.lstrip().startswith("["):
            value = json.loads(value)
        if not isinstance(value, kind) or (kind is Sequence and isinstance(value, str)):
            raise ValueError(f"{self.name}.{key} must be {described}, not {type(value).__name__}")
        return value

    def take_ordered(self) -> bool:
        """The field `ordered`, False where there is none."""
        return bool(self.take("ordered", bool, "true or false")) if "ordered" in self._rest else False

    def require(self, condition: bool, key: str, described: str) -> None:
        """Raise ValueError unless the condition holds."""
        if not condition:
            raise ValueError(f"{self.name}.{key} must be {described}")

    def finish(self) -> None:
        """Raise ValueError if anything is left."""
        if self._rest:
            raise ValueError(f"{self.name} has fields that its kind does not know: {', '.join(map(str, self._rest))}")


def _parse_stdin(fields: _Fields) -> StdinCase:
    case = StdinCase(fields.take("stdin", str, "a string"), fields.take("stdout", str, "a string"))
    fields.finish()
    return case


def _parse_call(fields: _Fields) -> CallCase:
    function = fields.take("function", str, "a string")
    args = fields.take("args", Sequence, "a list", or_json=True)
    result = fields.take("result", object, "a JSON value")
    check_call(function, args, result, fields.name)
    fields.finish()
    return CallCase(function, args, result)


def check_call(function: str, args: Sequence[Any], result: Any, name: str) -> None:
    """Raise ValueError unless this is a function's name, its arguments and what it must return, all of them JSON."""
    for key, right, described in (
        ("function", _NAME.fullmatch(function) is not None, f"a name or Class.method, not {function!r}"),
        ("args", _is_json(args), "JSON values"),
        ("result", _is_json(result), "a JSON value"),
    ):
        if not right:
            raise ValueError(f"{name}.{key} must be {described}")


def _parse_query(fields: _Fields) -> QueryCase:
    setup = fields.take("setup", str, "a string")
    rows = fields.take("rows", Sequence, "a list of rows")
    ordered = fields.take_ordered()
    for row in rows:
        cells = row if isinstance(row, Sequence) and not isinstance(row, str) else [object()]
        plain = all(cell is None or type(cell) in (int, float, str) for cell in cells)
        fields.require(plain and _is_json(row), "rows", "rows of null, finite numbers and strings")
    fields.finish()
    return QueryCase(setup, rows, ordered)


_KINDS: Mapping[str, Callable[[_Fields], Case]] = {
    "stdin": _parse_stdin,
    "function": _parse_call,
    "setup": _parse_query,
}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def parse_json(data: bytes) -> Any:
    """The one JSON value in the data. Raises ValueError if there is none, more than one, or one nobody can read."""
    if not data:
        raise ValueError("it gave no result")
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its result is not one JSON value: {error}") from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def same(expected: Any, got: Any) -> bool:
    """Whether two JSON values are the same.

    Types are strict, as JSON has them: true is not 1, "1" is not 1, null is not false. There is one type of number, so
    3 and 3.0 are the same, and one of list, so a tuple is a list. Where the expected number is a float, the other may
    differ by `RELATIVE_TOLERANCE` of the larger or by `ABSOLUTE_TOLERANCE`; where it is an integer, by nothing.
    """
    if isinstance(expected, bool) or not isinstance(expected, int | float | Mapping | Sequence):
        return type(expected) is type(got) and bool(expected == got)
    if isinstance(expected, str):
        return isinstance(got, str) and expected == got
    if isinstance(expected, int | float):
        return type(got) in (int, float) and (
            expected == got or (isinstance(expected, float) and _close(expected, got))
        )
    if isinstance(expected, Mapping):
        return isinstance(got, dict) and expected.keys() == got.keys() and all(same(expected[k], got[k]) for k in got)
    return isinstance(got, list) and len(expected) == len(got) and all(map(same, expected, got))


def _close(expected: float, got: float) -> bool:
    try:
        return math.isclose(expected, got, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    except OverflowError:  # An integer beyond all floats.
        return False


def same_text(expected: str, got: str) -> bool:
    """Whether two printed texts are the same, blanks at the ends of lines and lines at the end left out.

    A line with a decimal fraction is also the same if its words are, where each fraction may differ as in `same`.
    """
    expected_lines, got_lines = _lines(expected), _lines(got)
    return len(expected_lines) == len(got_lines) and all(map(_same_line, expected_lines, got_lines))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _same_line(expected: str, got: str) -> bool:
    if expected == got:
        return True
    words, got_words = expected.split(), got.split()
    fractions = [_DECIMAL.fullmatch(word) is not None for word in words]
    if len(words) != len(got_words) or not any(fractions):
        return False
    return all(
        word == other or (fraction and _NUMBER.fullmatch(other) is not None and _close(float(word), float(other)))
        for word, other, fraction in zip(words, got_words, fractions, strict=True)
    )


def _row_key(row: Any) -> tuple[Any, ...]:
    """Sorts rows so that two sets which are the same up to rounding stand in the same order."""
    numbers = [cell for cell in row if isinstance(cell, int | float)]
    others = [(i, cell is not None, cell or "") for i, cell in enumerate(row) if not isinstance(cell, int | float)]
    return (len(row), others, [_rounded(number) for number in numbers], numbers)


def _rounded(number: float) -> float:
    try:
        return float(f"{number:.5g}")
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _difference(expected: Any, got: Any) -> str:
    return f"expected {_short(expected)}, got {_short(got)}"


def _short(value: Any, length: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
