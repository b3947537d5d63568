"""Is an answer the same as the reference, as a person would read both?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from evolpo.rewards.answers.clean import clean
from evolpo.rewards.answers.notation import (
    as_words,
    digits_of_base,
    has_words,
    is_text,
    ratio_form,
    ratio_terms,
    row_form,
    score_form,
    split_parts,
    verbatim,
    word_list,
)
from evolpo.rewards.answers.numbers import Number, compound, read_number, same_number, tolerance
from evolpo.rewards.answers.sentences import named_words, said, spellings
from evolpo.rewards.answers.spelling import alike, named, respelled, with_marks
from evolpo.rewards.answers.symbolic import TooLarge, roughly_equal, same_formula
from evolpo.rewards.answers.units import known_unit

MAX_CHARACTERS = 20_000
MAX_PARTS = 12
_FORMS = {"ratio": ratio_form, "score": score_form, "row": row_form}
_DENIAL = re.compile(
    r"\b(?:not|no|wrong|incorrect|false|never|unlikely|neither|nor|except|reject(?:ed)?|rul(?:e|ed) out|impossible"
    r"|falsch|nicht)\b|n't\b",
    re.IGNORECASE,
)
_KELVIN = re.compile(r"(?<=\d)K$")
_ONE_VARIABLE = re.compile(
    r"(?<![A-Za-z\\])(?:[fghFGHPE]\s?\([^()]*\)|[A-Za-z](?:_\{?\w+\}?)?)(?![A-Za-z])|\\(?:theta|alpha|beta|gamma|lambda|phi|omega|mu)"
)
_ABOUT = re.compile(
    r"(?:[-+*/^!|.\d]|\\(?:frac|sqrt|log|ln|exp|cdot|times|div|lfloor|rfloor|lceil|rceil)|(?:sqrt|log|ln|exp))+"
)
_EQUALS = re.compile(r"(?<![<>!:=\\])=(?![=<>])|\\approx(?![A-Za-z])|\\equiv(?![A-Za-z])")
_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_EQUALS_OR_BRACKET = re.compile(rf"{_EQUALS.pattern}|[()\[\]{{}}]")
_ONE_TERM = re.compile(
    r"-?\d+(?:\.\d+)?\s?\*?\s?[A-Za-z]|-\s?[A-Za-z]|[A-Za-z]\s?(?:\^\s?\{?\d+\}?|/\s?\d+)|\\frac\{[A-Za-z]\}\{\d+\}"
)
_RELATION = re.compile(r"[<>]|!=|\\(?:le|ge|ne|lt|gt|not|sim)(?![A-Za-z])")
_MEMBER = re.compile(r"^\s*[A-Za-z]\s*\\in(?![A-Za-z])\s*")
_LABEL = re.compile(r"^[^\d:=]{1,60}:\s*(?=\S)")
_VARIABLE = re.compile(
    r"(?<![A-Za-z\\])[A-Za-df-hj-zA-DF-HJ-Z](?![A-Za-z])|\\(?:theta|alpha|beta|gamma|lambda|phi|omega|mu)"
)
_TRAILING_WORDS = re.compile(r"(?<=[\d})\sA-Za-z])\s((?:[A-Za-z]{2,}|[$€£])(?:[ /]?[A-Za-z]+)*(?:\s?\^\{?\d\}?)?)$")
_A_NAME = re.compile(
    r"[A-Za-z]+(?:_\{?\w+\}?)?'*(?:\s?\([A-Za-z](?:, ?[A-Za-z])*\))?'*|\\(?!pi\b|infty)[A-Za-z]+|[A-Za-z ]+"
    r"|D_\{\w{1,3}\}\s?(?:\(.*\)|\[.*\]|[A-Za-z]\([A-Za-z]\))"
)
_SPACED = re.compile(r"\d\s+\d")
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")


def same_answer(reference: str, answer: str) -> bool:
    """Whether the answer is the reference: as numbers with their units, words, dates, lists of these, or as formulas.

    Who gives two answers where the reference is one has given none.

    Raises:
        TooLarge: the answer is larger than what is worked out.
        ComputationFailed: working it out took too much time or memory.
    """
    if len(answer) > MAX_CHARACTERS:
        raise TooLarge(f"{len(answer)} characters; at most {MAX_CHARACTERS} are read")
    gold, given = alike(_cleaned(reference), said(respelled(clean(answer))))
    if gold == given:
        return bool(gold)
    return _same(gold, given)


@lru_cache(256)
def _cleaned(reference: str) -> str:
    return said(respelled(clean(reference)))


def _same(gold: str, given: str) -> bool:
    if not given:
        return False
    if (halves := spellings(given)) and all(_same(gold, half) for half in halves):
        return True
    form, given_form = verbatim(gold), verbatim(given)
    if form or given_form:
        return _same_verbatim(form, given_form, gold, given)
    number = read_number(gold) or compound(gold)
    if number is not None:
        return _is_the_number(number, gold, given)
    if is_text(gold):
        words = word_list(gold)
        same = as_words(gold) == as_words(given) or as_words(named_words(gold)) == as_words(named_words(given))
        return (same and as_words(named_words(given)) != "") or (words is not None and words == word_list(given))
    return _same_parts(gold, given)


def _same_verbatim(form: str | None, given_form: str | None, gold: str, given: str) -> bool:
    if form == given_form or _ratio_is_fraction(form, given_form, gold, given):
        return True
    if form and (read := _FORMS.get(form.partition(" ")[0])):
        return read(gold) == read(given)
    if given_form and given_form.startswith("ratio ") and ratio_form(gold) == given_form:
        return True
    digits, given_digits = digits_of_base(form), digits_of_base(given_form)
    if digits and given_digits is None:  # The base that the problem asks for goes without saying.
        return digits == given.lower()
    decimal = given_form is not None and given_form.startswith(("base 10:", "base ten:"))
    return decimal and digits is None and given_digits == gold.lower()


def _ratio_is_fraction(form: str | None, given_form: str | None, gold: str, given: str) -> bool:
    """Whether one is a fraction and the other its ratio; `1:30` is a time, unless the reference has these digits."""
    if form is None and (number := read_number(gold)) and _is_fraction(number):
        terms = ratio_terms(given)
        same_digits = terms == (number.value.numerator, number.value.denominator)
        is_ratio = str(given_form).startswith("ratio ") or same_digits
        return len(terms) == 2 and is_ratio and terms[1] != 0 and Fraction(*terms) == number.value
    if form and form.startswith("ratio ") and (number := read_number(given)) and _is_fraction(number):
        return ratio_terms(form.removeprefix("ratio ")) == (number.value.numerator, number.value.denominator)
    return False


def _is_fraction(number: Number) -> bool:
    return number.decimals is None and number.value.denominator > 1 and not (number.percent or number.unit)


def _is_the_number(gold: Number, gold_text: str, given: str) -> bool:
    """Whether an answer is a number, or a formula without variables, equal to the reference."""
    if (label := _LABEL.match(given)) and _DENIAL.search(label.group()):
        return False
    given = _LABEL.sub("", given)
    if gold.unit == "K":
        given = _KELVIN.sub(" K", given)
    sides = _sides(given)
    if len(sides) > 1:
        return _equation_gives(gold, gold_text, sides)
    if number := read_number(given, answer=True) or compound(given):
        return same_number(gold, number)
    return _formula_is(gold, gold_text, given)


def _equation_gives(gold: Number, gold_text: str, sides: Sequence[str]) -> bool:
    """Whether one side is the reference and no other one is another number."""
    values = [side for side in sides if side and not _is_label(side)]
    right = [side for side in values if _is_the_number(gold, gold_text, side)]
    plain = _plain_formula(gold, gold_text)
    return bool(right) and all(side in right or _agrees(side, gold, plain) for side in values)


def _agrees(side: str, gold: Number | None, plain: str) -> bool:
    """Whether a side of an equation is the reference, perhaps rounded on the way; a whole number is not rounded."""
    number = read_number(side, answer=True)
    if number is None or gold is None:
        return roughly_equal(_without_unit(side), plain)
    decimals = [one.decimals + 2 * one.percent for one in (number, gold) if one.decimals is not None]
    values = [one.value / 100 if one.percent else one.value for one in (number, gold)]
    return abs(values[0] - values[1]) <= (Fraction(10) ** -min(decimals) if decimals else 0)


def _sides(text: str) -> list[str]:
    """The sides of an equation, or of a chain of them, at the signs that stand in no bracket."""
    sides, depth, start = [], 0, 0
    for match in _EQUALS_OR_BRACKET.finditer(text):
        if match.group() in _BRACKETS:
            depth += _BRACKETS[match.group()]
        elif depth <= 0:
            sides.append(text[start : match.start()].strip())
            start = match.end()
    return [*sides, text[start:].strip()]


def _is_label(side: str) -> bool:
    """Whether a side of an equation names a thing and gives no number; 2x and x^2 are not what x is."""
    side = named(with_marks(side))
    if read_number(side, answer=True) is not None or _ONE_TERM.fullmatch(side) or _of_a_variable(side):
        return False
    return bool(_VARIABLE.search(side)) or is_text(side) or has_words(side)


def _of_a_variable(side: str) -> bool:
    """Whether a side says something of one variable (`x+1`, `|x|`, `\\log x`), so that the other is not its value."""
    rest, count = _ONE_VARIABLE.subn("", side)
    left = re.sub(r"[\s(){}]", "", rest)
    return count == 1 and bool(left) and bool(_ABOUT.fullmatch(left)) and not re.fullmatch(r"\|[^xytnkm]\|", side)


def _formula_is(gold: Number, gold_text: str, given: str) -> bool:
    given = _without_unit(given)
    if _RELATION.search(given) or _PLUS_MINUS.search(given) or is_text(given) or has_words(given):
        return False
    if len(split_parts(given)) > 1 or _SPACED.search(given) or not re.search(r"\d|\\[A-Za-z]|[A-Za-z]", given):
        return False
    return same_formula(_plain_formula(gold, gold_text), given, tolerance(gold))


def _plain_formula(gold: Number, gold_text: str) -> str:
    value = gold.value / 100 if gold.percent else gold.value
    if gold.decimals is not None and not gold.percent and not gold.unit and re.fullmatch(r"-?[\d.]+", gold_text):
        return gold_text
    return str(value.numerator) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _same_parts(gold: str, given: str) -> bool:
    golds, givens = split_parts(gold), split_parts(given)
    if {gold[0], given[0]} == {"(", "\\"} and (gold.startswith("\\{") or given.startswith("\\{")):
        return False  # A tuple is no set.
    if len(golds) == len(givens) == 1:
        return _same_formula(gold, given)
    if len(golds) > 1 and len(golds) == len(givens) <= MAX_PARTS:
        return _matched(golds, givens)
    if len(golds) == 1 and not _is_collection(gold):
        return False
    if len(givens) == 1 and not _is_collection(given):
        return False
    if has_words(gold) or has_words(given):
        return False
    return same_formula(", ".join(golds), ", ".join(givens))


def _matched(golds: list[str], givens: list[str]) -> bool:
    """Whether each part of the reference has one part of the answer for itself."""
    left = list(givens)
    for gold in golds:
        found = next((index for index, part in enumerate(left) if _same(gold, part)), None)
        if found is None:
            return False
        left.pop(found)
    return True


def _is_collection(text: str) -> bool:
    """Whether one formula stands for several values, or for a set of them."""
    return text.startswith(("(", "[", r"\{", r"\langle")) or bool(_PLUS_MINUS.search(text) or _MEMBER.search(text))


def _same_formula(gold: str, given: str) -> bool:
    """Compare two formulas, without labels before and units behind them."""
    gold, given = with_marks(_MEMBER.sub("", gold)), with_marks(_MEMBER.sub("", given))
    sides, given_sides = _sides(gold), _sides(given)
    relation = bool(_RELATION.search(gold) or _RELATION.search(given))
    if len(sides) == 2 and not relation and _names(sides[0]):
        if len(given_sides) == 2 and _names(given_sides[0]):
            same_name = as_words(sides[0]) == as_words(given_sides[0])
            return same_name and _same(sides[1], given_sides[1]) and not re.search(r"\d", sides[0] + given_sides[0])
        if len(given_sides) == 1:
            return _same(sides[1], given)
    if len(sides) == 1 and len(given_sides) > 1 and not relation:
        return _chain_gives(gold, given_sides)
    if len(sides) != len(given_sides):
        return False
    gold, given = _without_unit(gold), _without_unit(given)
    if is_text(given) or has_words(gold) or has_words(given):
        return as_words(gold) == as_words(given)
    rounded = read_number(given)
    return same_formula(gold, given, tolerance(rounded) if rounded else Fraction(0))


def _chain_gives(gold: str, sides: Sequence[str]) -> bool:
    """Whether a side of an equation is the reference, and no numbers among the others contradict it."""
    values = [side for side in sides if side and not _names(side)]
    right = [side for side in values if _same(gold, side)]
    if not right:
        return False
    others = [side for side in values if side not in right]
    if _VARIABLE.search(gold):
        return sides[-1] in right and not others
    return all(_agrees(side, read_number(gold), _without_unit(gold)) for side in others)


def _names(side: str) -> bool:
    """Whether a side of an equation is a name: `x`, `f(x)`, `AB`, `Area`."""
    return side != "e" and bool(_A_NAME.fullmatch(named(side)))


def _without_unit(text: str) -> str:
    found = _TRAILING_WORDS.search(text)
    if found is None or not text[: found.start()].strip():
        return text
    words = found.group(1)
    known = known_unit(words) is not None or words.startswith(("square ", "sq ", "cubic ", "units", "unit"))
    return text[: found.start()].rstrip() if known else text
