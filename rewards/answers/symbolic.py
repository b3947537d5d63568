"""Are two formulas equal? math-verify's parser and comparison, inside `sealed.py`, behind a bound on size.

math-verify has a second parser, for plain expressions, that has Python evaluate the text, and looks for numbers inside
formulas that it cannot parse. Neither is used: a formula is parsed as a whole, as LaTeX, or not at all.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from evolpo.rewards.answers.plain_sympy import SympyWithoutEval
from evolpo.rewards.answers.sealed import sealed_call

LIBRARIES = ("math_verify", "sympy.physics.units", "evolpo.rewards.answers.warm")
MAX_CHARACTERS = 1_500
MAX_DEPTH = 30
MAX_DEGREE = 200
"""Of brackets with variables in them, all multiplied: they are expanded."""
_NESTED = re.compile(r"[({\[]|[)}\]]")
_POWER_OF_BRACKET = re.compile(r"[)\]}]\s*\^\s*\{?\s*(\d{1,9})")
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_LONG_NUMBER = re.compile(r"\d{301}")
_HUGE = re.compile(
    r"\^\s*\{?\s*\(?-?\d{6}|\d{5,}\s*!|!\s*\)?\s*!|\^\s*\{?\s*\d+\s*\}?\s*\^|\^\s*\{[^{}]*\^\s*\{?[^{}]*\^"
)
_BEFORE_BRACKET = re.compile(r"(?<![\w.^\\])(\d++(?:\.\d++)?)\s*(?=[(\[])")
_BRACKETED_NUMBER = re.compile(r"(?<![\w\\^}])([(\[]\s*-?\d++(?:\.\d+)?\s*[)\]])\s*(?=[\d(\[]|\\frac)")
_RUN_TOGETHER = re.compile(r"(?<![\w.^\\])\d[\d.]*+\s+\d|(?<![\w.^\\])\d++\s*\\?\{")
PRECISION = 40
EXACT = Fraction(1, 10**25)
"""Relative difference of two numbers that were worked out to `PRECISION` digits and are the same."""
FLOATS = Fraction(1, 10**12)
"""The same, where a decimal stands in one of them."""
ROUGHLY = Fraction(1, 100)
"""Relative difference that sides of an equation may have: people round on the way."""


class TooLarge(ValueError):  # noqa: N818 - says what the answer is
    """The answer is longer, deeper or larger than what is worked out."""


def same_formula(reference: str, answer: str, tolerance: Fraction = Fraction(0)) -> bool:
    """Whether two formulas in LaTeX are the same.

    Args:
        reference: the right formula.
        answer: the one to judge.
        tolerance: by how much numbers may differ, for a rounded one.

    Raises:
        TooLarge: the answer is larger than the bounds.
        ComputationFailed: working it out took too much time or memory.
    """
    _check_size(answer)
    return bool(sealed_call(_same, reference, answer, tolerance, libraries=LIBRARIES))


def roughly_equal(one: str, other: str) -> bool:
    """Whether two formulas are numbers within 1% of each other; raises as `same_formula` does."""
    _check_size(one)
    return bool(sealed_call(_roughly, one, other, libraries=LIBRARIES))


def _check_size(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise TooLarge(f"{len(text)} characters; at most {MAX_CHARACTERS} are taken for a formula")
    depth = 0
    for bracket in _NESTED.finditer(text):
        depth += 1 if bracket.group() in "({[" else -1
        if depth > MAX_DEPTH:
            raise TooLarge(f"brackets nested more than {MAX_DEPTH} deep")
    degree = math.prod(int(power) for power in _POWER_OF_BRACKET.findall(text))
    if _LONG_NUMBER.search(text) or _HUGE.search(text) or (degree > MAX_DEGREE and _LETTER.search(text)):
        raise TooLarge("a number that is too large to be worked out")


def _same(reference: str, answer: str, tolerance: Fraction) -> bool:
    from math_verify import verify
    from sympy import Float

    gold, given = _parsed(reference), _parsed(answer)
    if gold is None or given is None:
        return False
    if _is_number(gold) and _is_number(given):
        rough = FLOATS if gold.has(Float) or given.has(Float) else EXACT
        return _close(gold, given, rough, tolerance)
    if _is_number(gold) or _is_number(given):
        # A number is equal to a formula with variables only if these cancel.
        return bool(_plain(gold) and _plain(given) and verify(gold, given, timeout_seconds=None))
    return bool(verify(gold, given, timeout_seconds=None))


def _roughly(one: str, other: str) -> bool:
    first, second = _parsed(one), _parsed(other)
    if first is None or second is None or not (_is_number(first) and _is_number(second)):
        return False
    return _close(first, second, ROUGHLY, Fraction(0))


def _is_number(parsed: Any) -> bool:
    return _plain(parsed) and bool(parsed.is_number)


def _plain(parsed: Any) -> bool:
    from sympy import Expr, MatrixBase, MatrixExpr

    return isinstance(parsed, Expr) and not isinstance(parsed, MatrixBase | MatrixExpr)


def _close(one: Any, other: Any, relative: Fraction, absolute: Fraction) -> bool:
    first, second = one.doit(), other.doit()
    if first == second:
        return True
    if not (first.is_finite and second.is_finite):
        return False
    difference = abs((first - second).evalf(PRECISION, maxn=400))
    sizes = [abs(number.evalf(PRECISION)) for number in (first, second)]
    if not all(number.is_Float or number.is_Integer for number in (difference, *sizes)):
        return False
    if 0 in (first, second):
        return bool(difference < EXACT)
    return bool(difference <= max(relative.numerator * max(sizes) / relative.denominator, float(absolute)))


@functools.cache
def _parser() -> Callable[..., Any]:
    """math-verify's parser of LaTeX; it has sympy read every number."""
    from latex2sympy2_extended import latex2sympy2

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    latex2sympy2.sympy = SympyWithoutEval()
    return latex2sympy2.latex2sympy  # type: ignore[no-any-return]


@functools.lru_cache(256)
def _parsed(text: str) -> Any:
    """The sympy object of a formula, or None if all of it cannot be parsed.

    The parser takes any two numbers that stand together for a mixed one: `2(4)` for 6. They are a product, or nothing.
    """
    from latex2sympy2_extended import NormalizationConfig, normalize_latex
    from math_verify.grader import should_treat_as_complex

    if _RUN_TOGETHER.search(text):
        return None
    text = _BRACKETED_NUMBER.sub(r"\1 \\cdot ", _BEFORE_BRACKET.sub(r"\1 \\cdot ", text))
    config = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    try:
        normal = normalize_latex(text, config)
        real = not should_treat_as_complex(normal)
        return _parser()(normal, is_real=real, convert_degrees=False, normalization_config=None)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the parser raises anything on what it does not know
        return None
