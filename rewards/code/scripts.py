"""Are tests that are scripts in Python able to fail a program? Read, never run: what cannot is refused with its row."""

from __future__ import annotations

import ast
import builtins
import functools
import keyword
import re
import warnings
from collections.abc import Iterator

_ENTRY = re.compile(r"[^\W\d]\w*(?:(?:\(\))?\.[^\W\d]\w*)?")
_JUDGES = re.compile(r"assert|raises|warns|fail|exit", re.IGNORECASE)
"""Functions that judge, by a part of their names: `assertEqual`, `assert_allclose`, `pytest.raises`, `self.fail`."""
_SHOWN = 80

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@functools.lru_cache(maxsize=1024)  # a prompt's tests are looked at again for each of its responses
def check_script(setup: str, test: str, entry: str, name: str) -> None:
    """Refuse tests that no program could fail, or that cannot run.

    Args:
        setup: what runs before the test.
        test: the script.
        entry: name of the candidate that `check` gets; empty if there is none.
        name: where the test stands, for messages.

    Raises:
        ValueError: it is no Python, or nothing that it runs judges anything; or the entry is no name.
    """
    if entry and not is_entry(entry):
        raise ValueError(f"metadata['entry_point'] {entry!r} is no name of a function; give one, or Class.method")
    prepared = _parsed(setup, "metadata['test_setup_code'] or ['test_imports']")
    tree = _parsed(test, name)
    helpers = {one for node in prepared.body for one in _bound(node)}
    if not any(_judges(node, helpers) for node in _run_nodes(tree, bool(entry))):
        raise ValueError(f"{name} asserts nothing, so that every program would pass: {_mend(tree, test, entry)}")


def is_entry(name: str) -> bool:
    """Whether it is a name as `f`, `Class.method` or `Class().method`."""
    parts = name.replace("()", "").split(".")
    return _ENTRY.fullmatch(name) is not None and not any(map(keyword.iskeyword, parts))


def _parsed(script: str, name: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of a `\d` in a text
        try:
            tree = ast.parse(script)
            compile(tree, "tests.py", "exec")  # a `return` outside of a function is told no sooner
            return tree
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
            raise ValueError(f"{name} is no Python ({reason}{line}): {_short(script)}") from None


def _run_nodes(tree: ast.Module, has_entry: bool) -> Iterator[ast.AST]:
    """What runs: the top level, tests and test classes, `check` with an entry, and what these name."""
    definitions = {node.name: node for node in tree.body if isinstance(node, _Definition)}
    waiting: list[ast.AST] = [node for node in tree.body if not isinstance(node, _Definition)]
    reached = {name for name, node in definitions.items() if _runs_alone(node, has_entry)}
    waiting += [definitions[name] for name in reached]
    while waiting:
        for node in ast.walk(waiting.pop()):
            yield node
            if isinstance(node, ast.Name) and node.id in definitions and node.id not in reached:
                reached.add(node.id)
                waiting.append(definitions[node.id])


def _runs_alone(node: _Definition, has_entry: bool) -> bool:
    if isinstance(node, ast.ClassDef):
        return node.name.startswith("Test") or bool(node.bases)
    return node.name.startswith("test") or (has_entry and node.name == "check")


def _judges(node: ast.AST, helpers: set[str]) -> bool:
    """Whether it can fail a program; `assert True`, `assert 1 == 1` and `assert (x, "message")` cannot."""
    if isinstance(node, ast.Assert):
        pair = isinstance(node.test, ast.Tuple) and node.test.elts
        return not pair and any(isinstance(one, ast.Name) for one in ast.walk(node.test))
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return called in helpers or _JUDGES.search(called) is not None
    return isinstance(node, ast.Raise)


def _bound(node: ast.AST) -> list[str]:
    """Names of functions that a statement of the set-up brings."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    names = [one.asname or one.name for one in node.names] if isinstance(node, ast.ImportFrom) else []
    return [name for name in names if not hasattr(builtins, name)]


def _mend(tree: ast.Module, test: str, entry: str) -> str:
    [alone] = tree.body if len(tree.body) == 1 else [None]
    if isinstance(alone, ast.Expr) and isinstance(alone.value, ast.Compare | ast.BoolOp | ast.UnaryOp):
        return f"write `assert {_short(test)}`"
    if not entry and any(getattr(node, "name", "") == "check" for node in tree.body):
        return "`check` runs if `entry_point` names the function that it gets"
    return f"write what must hold as assertions, instead of {_short(test)!r}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
