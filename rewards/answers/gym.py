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

from evolpo.rewards.answers.equal import same_answer
from evolpo.rewards.answers.plain_sympy import SympyWithoutEval
from evolpo.rewards.answers.syntax import FUNCTIONS, arithmetic, bits, formula, literal, plain_operators

Entry = Mapping[str, Any]

LIBRARIES = ("reasoning_gym", "sympy.physics.units", "evolpo.rewards.answers.warm")
"""What the verifiers need."""
MAX_CHARACTERS = 100_000
_HUGE_EXPONENT = re.compile(r"\d[eE][+-]?\d{4,}")
_LONG_NUMBER = re.compile(r"\d{1001}")
_NAME = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_ROLE = re.compile(r"(\w+) is an? (\w+)")
_OR = re.compile(r"\bor\b", re.IGNORECASE)

_HEDGE = re.compile(
    r"\b(?:not|or|nor|wrong|incorrect|false|never|maybe|perhaps|possibly|alternatively|either|instead|oder|nicht)\b|n't\b",
    re.IGNORECASE,
)

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


def wrong_for(family: str, answer: str, entry: Entry) -> str:
    """Why an answer is wrong, whatever the family's verifier says; empty if nothing speaks against it."""
    reference = entry.get("answer")
    if isinstance(reference, str) and reference and _hedged(answer) - _hedged(reference):
        return "denies an answer, or offers several"
    check = _CHECKS.get(family)
    return check(answer, entry) if check else ""


def _hedged(text: str) -> set[str]:
    return {word.casefold() for word in _HEDGE.findall(text)}


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


def _other_numbers(answer: str, entry: Entry) -> str:
    """puzzle24's verifier counts the numbers but does not compare them, and takes 24.9 for 24."""
    given = sorted(int(number) for number in re.findall(r"\d+", answer))
    asked = sorted((entry.get("metadata") or {}).get("numbers") or given)
    if given != asked:
        return f"uses {given}, not {asked}"
    return "" if arithmetic(answer) == 24 else "is not 24"


def _other_truth(answer: str, entry: Entry) -> str:
    """game_of_life_halting's verifier compares `bool(text)`, which is true of every text."""
    return "" if answer.strip().casefold() == str(entry.get("answer")).casefold() else "is not the reference"


def _other_lists(answer: str, entry: Entry) -> str:
    """number_sorting's verifier lets every number be off by one."""
    given, asked = (list(map(float, _NUMBER.findall(text))) for text in (answer, str(entry.get("answer"))))
    return "" if given == asked else "has other numbers than the reference"


def _several(answer: str, entry: Entry) -> str:
    """These verifiers read the first number and ignore the rest."""
    return "offers several answers" if _OR.search(answer) or answer.count("=") > 1 else ""


def _another_number(answer: str, entry: Entry) -> str:
    """gsm_symbolic's verifier takes the first number that is the reference, whatever stands around it."""
    return _several(answer, entry) or ("" if same_answer(str(entry.get("answer")), answer) else "is another answer")


def _another_statement(answer: str, entry: Entry) -> str:
    """knights_knaves' verifier ignores what is said twice, or of others."""
    given, asked = (sorted(_ROLE.findall(text.casefold())) for text in (answer, str(entry.get("answer"))))
    return "" if given == asked else "says more, or less, than the reference"


def _other_words(answer: str, entry: Entry) -> str:
    """word_sorting's verifier counts the words in the right place, and no further ones."""
    given, asked = (len(text.split(",")) for text in (answer, str(entry.get("answer"))))
    return "" if given == asked else f"has {given} words, not {asked}"


def _not_finite(answer: str, entry: Entry) -> str:
    """complex_arithmetic's verifier compares by a distance that `nan` makes neither small nor large."""
    return "is not finite" if re.search("nan|inf", answer, re.IGNORECASE) else ""


def _rounded_away(answer: str, entry: Entry) -> str:
    """coin_flip's verifier rounds the truth to as many digits as the answer has, down to none."""
    try:
        given, asked = float(answer), float(str(entry.get("answer")))
    except ValueError:
        return ""
    return "" if abs(given - asked) <= 0.005 else "is rounded too far"


def _not_only_numbers(answer: str, entry: Entry) -> str:
    """polynomial_equations' verifier skips what is no number."""
    parts = answer.split(",")
    return "" if not entry.get("answer") or all(_is_number(part) for part in parts) else "is no list of numbers"


def _longer(answer: str, entry: Entry) -> str:
    """figlet_font's verifier gives a tenth for each right letter, also of a longer word."""
    given, asked = (text.replace(" ", "").casefold() for text in (answer, str(entry.get("answer"))))
    return "" if given == asked else "is another word"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_CHECKS: Mapping[str, Callable[[str, Entry], str]] = {
    "puzzle24": _other_numbers,
    "game_of_life_halting": _other_truth,
    "number_sorting": _other_lists,
    "gsm_symbolic": _another_number,
    "word_sorting": _other_words,
    "knights_knaves": _another_statement,
    "fraction_simplification": _another_number,
    "complex_arithmetic": _not_finite,
    "coin_flip": _rounded_away,
    "time_intervals": _several,
    "polynomial_equations": _not_only_numbers,
    "figlet_font": _longer,
}
