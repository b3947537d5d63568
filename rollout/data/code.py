"""Prompts that ask for programs: what a model must know of the tests to pass them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolpo.rollout.data.cells import MISSING, cell, parsed

TESTS = (
    *("tests", "test_list", "test", "test_cases", "input_output", "public_test_cases", "public_tests"),
    "verification_info.test_cases",
)
"""Columns that may hold tests."""
SHOWN_TESTS = "Your code should pass these tests:"
STARTER = "Use this starter code:"


def holds_tests(row: Mapping[str, Any]) -> bool:
    """Whether one of the cells that may hold tests does: `test` alone is a common name."""
    for value in (cell(row, name) for name in TESTS):
        tests = parsed(value) if isinstance(value, str) else value
        if (isinstance(tests, list | dict) and tests) or (isinstance(value, str) and "assert" in value):
            return True
    return False


def has_tests(row: Mapping[str, Any]) -> bool:
    """Whether a row of a source whose rows hold tests has some, told without parsing them."""
    return any(cell(row, name) not in (MISSING, None, "", [], {}) for name in TESTS)


def with_what_tests_call(text: str, row: Mapping[str, Any]) -> str:
    """The text of a problem with what its program has to be called, where only the tests say so.

    MBPP's tests stand behind the problem, as in the paper's own prompts (Austin et al., arXiv 2108.07732; the README of
    `mbpp` in google-research: "Your code should pass these tests:"). Starter code, which APPS, TACO and LiveCodeBench
    have for functions, stands behind it as in LiveCodeBench's prompts. What the text has already is not added.
    """
    starter = row.get("starter_code")
    if isinstance(starter, str) and starter.strip() and not _holds(text, starter):
        text = f"{text}\n\n{STARTER}\n\n```python\n{starter.rstrip()}\n```"
    tests = row.get("test_list")
    if isinstance(tests, list) and tests and all(isinstance(one, str) for one in tests) and not _holds(text, tests[0]):
        text = f"{text}\n{SHOWN_TESTS}\n\n" + "\n".join(one.strip() for one in tests)
    return text


def _holds(text: str, part: str) -> bool:
    return "".join(part.split()) in "".join(text.split())
