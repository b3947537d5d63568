"""reasoning-gym's verifiers, with the doors closed through which an answer could become code, or right though wrong.

Nine families have Python evaluate the answer. What such a verifier gets is parsed first (`readable`), and the names by
which it evaluates lead to our own evaluators (`syntax.py`), which follow a tree and run nothing. All verifiers, also of
families that do not evaluate, work in `sealed.py`.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from evolpo.rewards.answers.plain_sympy import SympyWithoutEval
from evolpo.rewards.answers.syntax import FUNCTIONS, arithmetic, bits, formula, literal, plain_operators

Entry = Mapping[str, Any]

LIBRARIES = ("reasoning_gym", "sympy.physics.units", "evolpo.rewards.answers.warm")
"""What the verifiers need."""
MAX_CHARACTERS = 100_000
_HUGE_EXPONENT = re.compile(r"\d[eE][+-]?\d{4,}")
_LONG_NUMBER = re.compile(r"\d{1001}")
_NAME = re.compile(r"[A-Za-z_]\w*")

_LISTS = ("string_insertion", "binary_matrix", "spiral_matrix", "n_queens")
_SUMS = ("countdown", "puzzle24")
_FORMULAS = ("polynomial_multiplication", "simple_integration", "intermediate_integration")
_BOARDS = ("arc_agi", "rearc")
WITHOUT_REFERENCE = frozenset(("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"))
"""Families whose verifier needs no reference answer."""
EVALUATING = frozenset((*_LISTS, *_SUMS, *_FORMULAS))
"""Families whose verifier has Python evaluate the answer."""


def readable(family: str, answer: str, entry: Entry) -> str:
    """What the verifier of a family gets to see of an answer.

    Raises:
        ValueError: the answer is too large, or is not written in the language of the family.
    """
    if answer in _verbatim(entry):
        return answer
    if len(answer) > MAX_CHARACTERS or _HUGE_EXPONENT.search(answer) or _LONG_NUMBER.search(answer):
        raise ValueError("too large to be read")
    if family in _LISTS:
        return repr(literal(answer))
    if family in _SUMS:
        answer = plain_operators(answer)
        arithmetic(answer)
    elif family in _FORMULAS:
        answer = plain_operators(answer)
        formula(answer, _symbols(entry), _functions(entry))
    return answer


def marks(family: str, answer: str, entry: Entry) -> float:
    """What the verifier of a family gives an answer; raises what the verifier raises. For `sealed_call` only."""
    if family in _BOARDS:
        entry = {**entry, "metadata": {**entry["metadata"], "output": _as_tuples(entry["metadata"].get("output"))}}
    return float(_verifier(family)(answer, entry))


def _as_tuples(value: Any) -> Any:
    """Lists as tuples, at every level: JSON has no tuples, and these verifiers compare with them."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def _verbatim(entry: Entry) -> set[str]:
    """Texts that verifiers compare with the answer before they do anything else."""
    solutions = (entry.get("metadata") or {}).get("valid_answers")
    texts = [entry.get("answer"), *(solutions if isinstance(solutions, list) else [])]
    return {form for text in texts if isinstance(text, str) for form in (text, text.strip())}


def _symbols(entry: Entry) -> dict[str, Any]:
    import sympy

    variable = str((entry.get("metadata") or {}).get("variable") or "x")
    return {variable: sympy.Symbol(variable), "C": sympy.Symbol("C")}


def _functions(entry: Entry) -> frozenset[str]:
    """Those of school, and what the reference is written with."""
    named = _NAME.findall(str(entry.get("answer") or ""))
    return FUNCTIONS | ({"Integral"} & set(named))


@functools.cache
def _verifier(family: str) -> Callable[[str, Entry], float]:
    """The verifier of a family. Raises ValueError if reasoning-gym has none of that name."""
    import reasoning_gym

    verifier: Any = reasoning_gym.get_score_answer_fn(family)
    _evaluate_by_hand(family, sys.modules[type(verifier.__self__).__module__])
    return verifier  # type: ignore[no-any-return]


def _evaluate_by_hand(family: str, module: Any) -> None:
    """Let the names by which a verifier evaluates text lead to evaluators that run nothing."""
    if family in _LISTS or family == "number_sorting":  # The latter evaluates the reference.
        module.eval = literal
    elif family == "bitwise_arithmetic":
        module.eval = bits  # The problem, not the answer.
    elif family in _SUMS:
        module.parse_expr = arithmetic
    elif family in _FORMULAS:
        for name in ("sympy", "sp"):
            if hasattr(module, name):
                setattr(module, name, SympyWithoutEval())
