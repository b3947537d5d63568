r"""A number as people write it: with separators, a power of ten, a fraction, a percent sign, a unit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from evolpo.rewards.answers.number_words import MAX_NUMBER_WORDS, number_in_words
from evolpo.rewards.answers.units import Unit, contrary_units, known_unit

MAX_DIGITS = 1_000
MAX_EXPONENT = 400
RELATIVE = Fraction(1, 10**12)
"""Relative difference that the arithmetic of floats explains, in a number of `FLOAT_DECIMALS` and more."""
FLOAT_DECIMALS = 10
ROUNDED_DECIMALS = 6
"""So many decimals, and as many digits, a rounded value needs to stand for the exact one."""

_DIGITS = (
    r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?"  # 1,234.5 and 12,34,567
    r"|\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|\d{1,3}(?:\.\d{3})+,\d+"  # 1.234.567 and 1.234,5
    r"|\d{1,3}(?:[ '_]\d{3})+(?:[.,]\d+)?"  # 1 234 567
    r"|0,\d+|\d+,\d{1,2}|\d+,\d{4,}"  # A comma that can only be a decimal one, if the answer is one number.
    r"|\d+\.\d*\\overline\{\d+\}|\d+\.\d*\(\d+\)"  # 0.1(6)
    r"|\d+(?:\.\d*)?|\.\d+)"
)
_POWER = r"(?:[eE]([+-]?\d{1,9})|\s?(?:\\times|\\cdot|\*|[xX])\s?10\s?\^\s?\{?\s?([+-]?\s?\d{1,9})\s?\}?)"
_WHOLE = r"\d+(?:,\d{3})*"
_NUMBER = re.compile(
    rf"(?P<mixed>\d+)(?:\s|\s?(?:and|\+)\s|\s?(?=\\frac))"
    rf"(?:\\frac\s?\{{(?P<a>\d+)\}}\s?\{{(?P<b>\d+)\}}|(?P<c>\d+)\s?/\s?(?P<d>\d+))"
    rf"|\\frac\s?\{{\s?(?P<num>-?\s?{_WHOLE})\s?\}}\s?\{{\s?(?P<den>-?\s?{_WHOLE})\s?\}}"
    rf"|(?P<over>{_WHOLE})\s?/\s?(?P<under>{_WHOLE})(?![\d.])"
    rf"|(?P<root>\d{{1,9}})\^\{{?(?P<exponent>-?\d{{1,4}})\}}?(?![\d^])"
    rf"|(?P<digits>{_DIGITS})(?:{_POWER})?(?!\d|\^(?!\\circ|\{{? ?(?:st|nd|rd|th)))"
)
_DECIMAL_COMMA = re.compile(r"[1-9]\d*,(?:\d{1,2}|\d{4,})|0\d+,\d+")
_CURRENCY = r"(?:US\$|[A-Z]{2}\$|[$€£¥₹]|USD|EUR|GBP|Rs\.?)"
_HEAD = re.compile(
    rf"(?:(?:\\approx|\\sim|~|about|approximately|approx\.?|roughly|exactly|nearly|around|a total of|only|just) ?)?"
    rf"(?P<sign>[+-]?) ?(?P<currency>{_CURRENCY})? ?(?P<sign2>[+-]?) ?(?P<open>\()?",
    re.IGNORECASE,
)
_MULTIPLES = """
ten:10 hundred:1e2
thousand:1e3 grand:1e3 tausend:1e3 lakh:1e5 lac:1e5 million:1e6 millionen:1e6 mio:1e6 mio.:1e6 mn:1e6
mln:1e6 crore:1e7 billion:1e9 milliard:1e9 milliarde:1e9 milliarden:1e9 mrd:1e9 mrd.:1e9 bn:1e9 trillion:1e12 tn:1e12
quadrillion:1e15 quintillion:1e18 dozen:12 score:20 gross:144
"""
LARGE = {word.partition(":")[0]: int(float(word.partition(":")[2])) for word in _MULTIPLES.split()}
"""Words that multiply the number before them."""
_LETTERS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
_MULTIPLE = re.compile(
    rf" ?({'|'.join(map(re.escape, sorted(LARGE, key=len, reverse=True)))})s?(?![A-Za-z])", re.IGNORECASE
)
_LETTER_MULTIPLE = re.compile(r"([kKMB])(?![A-Za-z/^_])")
_MEASURE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([A-Za-z]+)")
_MEASURES = re.compile(rf"{_MEASURE.pattern}(?:(?:,? and |, ?| ?){_MEASURE.pattern}){{1,3}}")
_PERCENT = re.compile(r" ?(?:%|per ?cent|pct|percentage points?)(?![A-Za-z])", re.IGNORECASE)
_ORDINAL = re.compile(r"(?:\^\{? ?)?(?:st|nd|rd|th) ?\}?$")
_UNIT = re.compile(
    r"(?:[ -]?(?:[A-Za-z\u00b5\u03bc\u03a9]++\.?|[$\u20ac\u00a3\u00a5\u20b9\u00a2]|\^\\circ ?_?|\^\{?-?\d\}?"
    r"|/|\\cdot|\\Omega|\\mu))++"
)
_NO_UNIT = """
or and not no nor to plus minus times over divided by less more than if when but maybe perhaps possibly half squared
cubed factorial choose mod modulo point through until between either neither versus vs is isn are equals equal after
remainder out base halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths eighth eighths tenth
tenths hundredths negative pi root sqrt sin cos tan log ln exp infinity infinite wait actually instead rather wrong
incorrect oder ou except unless greater smaller larger at least most up down with without st nd rd th am pm january
february march april may june july august september october november december ppm ppb doubled tripled quadrupled halved
"""
_NOT_IN_UNITS = frozenset(_NO_UNIT.split())
_MAX_UNIT_WORDS = 5
_MAX_UNIT_CHARACTERS = 80


@dataclass(frozen=True)
class Number:
    """A number with what stands beside it."""

    value: Fraction
    """Without the percent sign and the unit."""
    decimals: int | None = None
    """Digits behind the point, if it was written with one."""
    digits: int = 0
    """Digits from the first that is not 0, if it was written with a point."""
    percent: bool = False
    """Whether a percent sign follows."""
    unit: str = ""
    """What follows it, or the currency before it."""

    @property
    def known(self) -> Unit | None:
        """The unit, if it is one of the table."""
        return known_unit(self.unit) if self.unit else None


def read_number(text: str, answer: bool = False) -> Number | None:
    """The number that a cleaned text is, if it is one number and no more than a unit besides.

    Args:
        text: from `clean`.
        answer: it is compared with a number: a comma may be a decimal one (`3,14`), and a single letter directly behind
            the digits a unit (`5m`). In a reference they are a list and a product.
    """
    if answer and text[:1].isalpha() and (said := _in_words(text)) is not None:
        return said
    head = _HEAD.match(text)
    assert head is not None
    found = _NUMBER.match(text, head.end())
    if found is None or (head["sign"] and head["sign2"]):
        return None
    rest = text[found.end() :]
    if head["open"]:
        if not rest.startswith(")"):
            return None
        rest = rest[1:]
    digits = found["digits"] or ""
    if "," in digits and (head["open"] or (not answer and _DECIMAL_COMMA.fullmatch(digits))):
        return None
    number = _value(found)
    if number is None:
        return None
    if large := _MULTIPLE.match(rest):
        rest = rest[large.end() :]
        number = Number(number.value * LARGE[large.group(1).lower()], number.decimals, number.digits)
    elif answer and (letter := _LETTER_MULTIPLE.match(rest)):
        rest = rest[letter.end() :]
        number = Number(number.value * _LETTERS[letter.group(1)], number.decimals, number.digits)
    percent = _PERCENT.match(rest)
    unit = _unit_of(rest[percent.end() :] if percent else rest, bool(found["digits"]), answer)
    if unit is None or (
        unit and head["currency"] and (known := known_unit(unit)) and known != known_unit(head["currency"])
    ):
        return None
    value = -number.value if "-" in (head["sign"], head["sign2"]) else number.value
    return Number(value, number.decimals, number.digits, bool(percent), head["currency"] or unit)


def compound(text: str) -> Number | None:
    """The number of a measure in several units, such as `1 h 30 min` or `5 feet 4 inches`, in the smallest of them."""
    parts = _MEASURE.findall(text)
    if len(parts) < 2 or not _MEASURES.fullmatch(text):
        return None
    units = [known_unit(name) for _, name in parts]
    known = [unit for unit in units if unit is not None]
    factors = [unit.factor for unit in known]
    if len(known) < len(units) or len({unit.kind for unit in known}) > 1 or factors != sorted(set(factors))[::-1]:
        return None
    total = sum((Fraction(amount) * factor for (amount, _), factor in zip(parts, factors, strict=True)), Fraction(0))
    return Number(total / factors[-1], unit=parts[-1][1])


def _in_words(text: str) -> Number | None:
    """The number that words say, and the thing that is counted: `thirty-four apples`."""
    words = text.split()[: MAX_NUMBER_WORDS + _MAX_UNIT_WORDS]
    for count in range(len(words), 0, -1):
        value = number_in_words(" ".join(words[:count]))
        if value is not None:
            if words[count : count + 1] and (dozens := LARGE.get(words[count].casefold())):
                value, count = value * dozens, count + 1
            rest = words[count:]
            counted = any(number_in_words(word) is not None or word.casefold() in LARGE for word in rest)
            unit = None if counted else _unit_of(text.removeprefix(" ".join(words[:count])), True, True)
            return None if unit is None else Number(value, unit=unit)
    return None


def _unit_of(rest: str, digits: bool, answer: bool) -> str | None:
    """The unit that follows, empty if nothing does, None if what follows is none."""
    if not rest.strip() or _ORDINAL.fullmatch(rest):
        return ""
    if len(rest) > _MAX_UNIT_CHARACTERS or not _UNIT.fullmatch(rest.rstrip()):
        return None
    words = re.findall(r"[A-Za-z]+", rest)
    lower = [word.lower() for word in words]
    if lower[:1] == ["more"] and len(lower) > 1 and lower[1] != "than":  # 12 more apples are 12 apples.
        lower = lower[1:]
    if len(words) > _MAX_UNIT_WORDS or not _NOT_IN_UNITS.isdisjoint(lower):
        return None
    unit = rest.strip(" -")
    letters = re.sub(r"\^.*", "", unit)
    if len(letters) == 1 and letters.isalpha() and (known_unit(unit) is None or not (answer or rest[0] == " ")):
        return None
    if rest[0].isalpha() and len(letters) <= 3 and letters.isalpha() and known_unit(unit) is None:
        return None  # 2xy, 3ab: a product.
    if rest[0].isalpha() and not answer and len(letters) <= 2 and not digits:
        return None
    return unit


def _value(found: re.Match[str]) -> Number | None:
    part = found.groupdict()
    if sum(map(str.isdigit, found.group())) > MAX_DIGITS:
        return None
    if part["mixed"]:
        over, under = int(part["a"] or part["c"]), int(part["b"] or part["d"])
        return Number(int(part["mixed"]) + Fraction(over, under)) if 0 < over < under else None
    if part["root"]:
        return _power(int(part["root"]), int(part["exponent"]))
    if part["digits"] is None:
        over, under = (_whole(part["num"] or part["over"]), _whole(part["den"] or part["under"]))
        return Number(Fraction(over, under)) if under else None
    power = int(
        (found[found.re.groupindex["digits"] + 1] or found[found.re.groupindex["digits"] + 2] or "0").replace(" ", "")
    )
    if abs(power) > MAX_EXPONENT:
        return None
    return _decimal(part["digits"], power)


def _power(base: int, exponent: int) -> Number | None:
    if (base == 0 and exponent <= 0) or abs(exponent) * base.bit_length() > 4 * MAX_DIGITS:
        return None
    return Number(Fraction(base) ** exponent)


def _whole(text: str) -> int:
    return int(text.replace(",", "").replace(" ", ""))


def _decimal(text: str, power: int) -> Number:
    text = re.sub(r"[ '_]", "", text)
    repeated = re.search(r"\\overline\{(\d+)\}|\((\d+)\)", text)
    if repeated:
        return Number(
            _repeating(text[: repeated.start()], repeated.group(1) or repeated.group(2)) * Fraction(10) ** power
        )
    comma, point = text.rfind(","), text.rfind(".")
    if comma > point:  # 1,234 and 12,34,567; else a decimal comma.
        grouped = re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3}", text)
        text = text.replace(",", "") if grouped else text.replace(".", "").replace(",", ".")
    elif text.count(".") > 1:
        text = text.replace(".", "")
    text = text.replace(",", "").rstrip(".")
    whole, _, behind = text.partition(".")
    value = Fraction(int((whole + behind) or "0"), 10 ** len(behind)) * Fraction(10) ** power
    significant = len((whole + behind).lstrip("0"))
    if not behind and not power:
        return Number(value)
    return Number(value, len(behind) - power, significant)


def _repeating(start: str, period: str) -> Fraction:
    whole, _, fixed = start.partition(".")
    without = Fraction(int(whole + fixed), 10 ** len(fixed))
    return without + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))


def same_number(reference: Number, answer: Number) -> bool:
    """Whether the answer is the reference, or the same in another unit of its kind, or as a percentage."""
    if contrary_units(reference.unit, answer.unit):
        return False
    kinds = reference.known, answer.known
    if kinds[0] and kinds[1] and not (reference.percent or answer.percent):
        if kinds[0].kind != kinds[1].kind:
            return False
        return _equal(reference, answer, kinds[0].factor, kinds[1].factor)
    hundredth = Fraction(1, 100)
    if reference.percent == answer.percent:
        return _equal(reference, answer)
    share = _equal(reference, answer, *((hundredth, 1) if reference.percent else (1, hundredth)))
    # Below 1 it would be a share of a share: 0.5% is not 0.5.
    return share or (abs(reference.value) >= 1 and _equal(reference, answer))


def _equal(one: Number, other: Number, scale: Fraction | int = 1, other_scale: Fraction | int = 1) -> bool:
    first, second = one.value * scale, other.value * other_scale
    if first == second:
        return True
    if one.decimals is None and other.decimals is None:
        return False
    if (first > 0) != (second > 0):
        return False
    rounded = max(tolerance(one, other) * scale, tolerance(other, one) * other_scale)
    noise = RELATIVE * abs(first) if max(one.decimals or 0, other.decimals or 0) >= FLOAT_DECIMALS else Fraction(0)
    return abs(first - second) <= max(noise, rounded)


def tolerance(number: Number, exact: Number | None = None) -> Fraction:
    """How far the exact value may be from a rounded one that stands for it; 0 if the other is no more exact."""
    if number.decimals is not None and exact and exact.decimals is not None and exact.decimals <= number.decimals:
        return Fraction(0)
    if number.decimals is None or number.decimals < ROUNDED_DECIMALS or number.digits < ROUNDED_DECIMALS:
        return Fraction(0)
    return Fraction(1, 10**number.decimals)
