"""The process of the tests: runs a script of assertions against a program that lives in another process.

The script comes on the standard input, which the program never sees, and the verdict goes out on descriptor 3, which
the program does not have: {"fault": why the program failed, or null} or {"broken": why the tests cannot run}.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import math
import os
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from remote import BrokenTestsError, Program, ProgramEndedError  # type: ignore[import-not-found]


def main() -> None:
    """Read the script, start the program, run the one against the other, tell the verdict."""
    sys.set_int_max_str_digits(0)
    request = json.loads(sys.stdin.buffer.read())
    with os.fdopen(3, "w", closefd=False) as channel:
        sys.stdout = sys.stderr
        channel.write(json.dumps(verdict(request["script"], request["entry"], request["prelude"])))
    os._exit(0)


def verdict(script: str, entry: str, prelude: str) -> dict[str, str | None]:
    """The verdict on the program by one script."""
    try:
        compiled = compile(script, "tests.py", "exec")
        first = compile(prelude, "prompt.py", "exec") if prelude else None
    except (SyntaxError, ValueError) as error:
        return {"broken": f"the tests are no Python: {error}"}
    program = Program()
    try:
        program.load(prelude)
        _run(program, script, compiled, first, entry)
    except BrokenTestsError as error:
        return {"broken": str(error)}
    except ImportError as error:
        ours = not hasattr(error, "from_program")
        return {"broken": f"the tests need what is not there: {error}"} if ours else {"fault": _told(error)}
    except ProgramEndedError as error:
        return {"fault": str(error)}
    except BaseException as error:  # noqa: BLE001 - an assertion, or what the program's results led to
        return {"fault": _told(error)}
    return {"fault": None}


def _told(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}"[:300] if text else _failed_line(error)


def _failed_line(error: BaseException) -> str:
    trace, line = error.__traceback__, 0
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "tests.py" else line
        trace = trace.tb_next
    return f"{type(error).__name__} in line {line} of the tests"


def _run(program: Program, script: str, compiled: Any, first: Any, entry: str) -> None:
    names: dict[str, Any] = {"__name__": "tests"}
    sys.modules["solution"] = _Solution(program)
    sys.modules["pytest"] = _Pytest()
    if first is not None:
        exec(first, names)
    for name, also_builtin in _free_names(ast.parse(script), set(names)):
        try:
            names[name] = program.name(name, also_builtin)
        except NameError:
            continue
    if entry:
        names[entry.partition(".")[0].partition("(")[0]] = candidate = _entry(program, entry)
    exec(compiled, names)
    if entry and callable(names.get("check")):
        names["check"](candidate)
    _run_functions(names)


def _entry(program: Program, entry: str) -> Any:
    """The object behind `name`, `Class.method` or `Class().method`."""
    owner, dot, method = entry.partition(".")
    found = program.name(owner.removesuffix("()"))
    return getattr(found(), method) if dot else found


def _free_names(tree: ast.AST, bound: set[str]) -> Iterator[tuple[str, bool]]:
    """Names that the script takes from the program; a built-in one only if it takes no other."""
    loaded: dict[str, None] = {}
    bound = set(bound)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                loaded[node.id] = None
            else:
                bound.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    free = [name for name in loaded if name not in bound]
    own = [name for name in free if not hasattr(builtins, name)]
    yield from ((name, False) for name in (own or free))


def _run_functions(names: Mapping[str, Any]) -> None:
    """Functions called test_*, and the methods of test classes, as pytest would find them."""
    import unittest

    for name, one in list(names.items()):
        if inspect.isclass(one) and issubclass(one, unittest.TestCase):
            _run_unittest(one)
        elif inspect.isclass(one) and name.startswith("Test"):
            for method in [method for method in vars(one) if method.startswith("test")]:
                instance = one()
                getattr(instance, "setup_method", lambda *_: None)()
                _call(getattr(instance, method))
        elif inspect.isfunction(one) and name.startswith("test"):
            _call(one)


def _call(function: Callable[..., Any]) -> None:
    for arguments in getattr(function, "parameters", [{}]):
        needed = [one for one in inspect.signature(function).parameters if one not in arguments]
        if needed:
            raise BrokenTestsError(f"the tests ask for fixtures, which there are not: {', '.join(needed)}")
        function(**arguments)


def _run_unittest(case: Any) -> None:
    import unittest

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    for _, trace in [*result.errors, *result.failures]:
        raise AssertionError(trace.strip().splitlines()[-1])


class _Solution(types.ModuleType):
    """The module `solution` that tests import from."""

    def __init__(self, program: Program) -> None:
        super().__init__("solution")
        self._program = program

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return self._program.names()
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self._program.name(name)
        except NameError as error:
            raise AttributeError(str(error)) from None


class _Pytest(types.ModuleType):
    """What tests of data sets use of pytest, which is not in the sandbox."""

    def __init__(self) -> None:
        super().__init__("pytest")
        self.mark = types.SimpleNamespace(parametrize=_parametrize)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise BrokenTestsError(f"the tests need pytest.{name}, which is not in the sandbox")

    @staticmethod
    @contextmanager
    def raises(kind: Any, match: str = "", **_: Any) -> Iterator[Any]:
        """Pass if the block raises such an error."""
        info = types.SimpleNamespace(value=None, type=None)
        try:
            yield info
        except ProgramEndedError:
            raise
        except kind as error:
            info.value, info.type = error, type(error)
            if match and not re.search(match, str(error)):
                raise AssertionError(f"{error!r} does not match {match!r}") from error
        else:
            raise AssertionError(f"did not raise {kind}")

    @staticmethod
    def approx(expected: Any, rel: float = 1e-6, abs: float = 1e-12, **_: Any) -> _Approx:  # noqa: A002
        """Equal to whatever is close."""
        return _Approx(expected, rel, abs)


class _Approx:
    def __init__(self, expected: Any, relative: float, absolute: float) -> None:
        self._expected, self._relative, self._absolute = expected, relative, absolute

    def __eq__(self, other: object) -> bool:
        return self._close(self._expected, other)

    def __hash__(self) -> int:
        return 0

    def _close(self, expected: Any, got: Any) -> bool:
        if isinstance(expected, dict):
            same_keys = isinstance(got, dict) and expected.keys() == got.keys()
            return same_keys and all(self._close(one, got[key]) for key, one in expected.items())
        if isinstance(expected, list | tuple):
            same_size = isinstance(got, list | tuple) and len(expected) == len(got)
            return same_size and all(map(self._close, expected, got))
        if not isinstance(expected, int | float) or not isinstance(got, int | float):
            return bool(expected == got)
        return math.isclose(expected, got, rel_tol=self._relative, abs_tol=self._absolute)


def _parametrize(names: str | Iterable[str], values: Iterable[Any], **_: Any) -> Callable[[Any], Any]:
    listed = [one.strip() for one in names.split(",")] if isinstance(names, str) else list(names)

    def mark(function: Any) -> Any:
        rows = [dict(zip(listed, row if len(listed) > 1 else [row], strict=True)) for row in values]
        before = getattr(function, "parameters", [{}])
        function.parameters = [{**one, **row} for one in before for row in rows]
        return function

    return mark


if __name__ == "__main__":
    main()
