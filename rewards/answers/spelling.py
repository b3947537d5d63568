r"""Several ways of writing a thing in LaTeX become one: `{3 \over 4}` is a fraction, `0 < x < 1` an interval."""

from __future__ import annotations

import re

MAX_CHARACTERS = 500
"""Of a text in which `\\over` is looked for."""
_TO_RESPELL = re.compile(r"^\||[{)✓✔✅☑]|\\(?:check|colo|[lL]arge|LARGE|huge|normal|small|bf|rm|it|d?binom|over)|pi|1i")
_COLOUR = re.compile(r"\\(?:textcolor\s*\{[^{}]*\}|colou?r\s*\{[^{}]*\})\s*")
_TICK = re.compile(r"\s*(?:\\checkmark(?![A-Za-z])|[✓✔✅☑]\ufe0f?)\s*$")
_SIZE = re.compile(r"\\(?:large|Large|LARGE|huge|Huge|normalsize|small|bf|rm|it)(?![A-Za-z])\s*")
_OVER = re.compile(r"\{\s*([^{}]+?)\s*\\over(?![A-Za-z])\s*([^{}]+?)\s*\}|([^{}]+?)\s*\\over(?![A-Za-z])\s*([^{}]+)")
_BINOMIAL = re.compile(r"\\[dt]?binom\s*(\d)\s*(\d)")
_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])|(?<=\d)\s?pi(?![A-Za-z])")
_ONE_I = re.compile(r"(?<![\w.])1i(?![A-Za-z])")
_BRACED = re.compile(r"\{([^{}]*)\}")
_OPTION = re.compile(r"\(?\s*([A-Z])\s*\)")
_BOUND = r"(-?(?:\d+(?:\.\d+)?(?:/\d+)?|\\frac\{\d+\}\{\d+\}|\\infty|\\sqrt\{\d+\}|\d*\\pi|\d*\\sqrt\{\d+\}))"
_LESS = r"\s*(<|\\lt(?![A-Za-z])|\\le(?![A-Za-z]))\s*"
_CHAIN = re.compile(rf"{_BOUND}{_LESS}[A-Za-z]{_LESS}{_BOUND}")
_SIDE = re.compile(rf"[A-Za-z]\s*(<|>|\\lt(?![A-Za-z])|\\gt(?![A-Za-z])|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))\s*{_BOUND}")
_COORDINATES = re.compile(r"\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)\s*=\s*(?=\()")
_INTERVAL = re.compile(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]]")

_D = r"(?:d|\\partial)"
_ORDER = r"(?:\s?\^\s?\{?(?P<%s>\d)\}?)?"
_DERIVATIVE = re.compile(
    rf"\\frac\s*\{{\s*{_D}{_ORDER % 'order'}\s*(?P<of>[A-Za-z]?)\s*\}}"
    rf"\s*\{{\s*{_D}\s*(?P<by>[A-Za-z]){_ORDER % 'same'}\s*\}}"
    r"|(?<![A-Za-z])d(?P<of_plain>[A-Za-z])\s?/\s?d(?P<by_plain>[A-Za-z])(?![A-Za-z])"
)
_MEASURED = re.compile(
    r"\\(?:overline|overrightarrow|overleftrightarrow|vec|hat|bar|widehat|widetilde|mathbf)\s*\{\s*([A-Za-z]{1,4})\s*\}"
    r"|\\(?:triangle|angle|measuredangle)\s*([A-Za-z]{1,4})(?![A-Za-z])"
    r"|(?:\\[lr]?vert|\|)\s*([A-Z]{1,4})\s*(?:\\[lr]?vert(?![A-Za-z])|\|)|\\\|\s*([A-Za-z]{1,2})\s*\\\|"
)
_MEASURED_IS = re.compile(rf"^(?:{_MEASURED.pattern})(?=\s*=)")
_TO_MARK = re.compile(r"\bd[A-Za-z]\b|d[A-Za-z]?\s*[\^}]|partial|prime|'|\^\s?\{?\s?(?:T|\\top|\\intercal)")
_PRIME = re.compile(r"(?<![A-Za-z\\])([A-Za-z])((?:'|\^\s?\{?\s?\\prime\s?\}?)+)")
_TRANSPOSED = re.compile(r"(?<![A-Za-z\\])([A-Z])\s?\^\s?\{?\s?(T|\\top|\\intercal)(?![A-Za-z])\s?\}?")


def respelled(text: str) -> str:
    """A cleaned answer without colours and ticks, with fractions, constants and sets as LaTeX has them."""
    if not _TO_RESPELL.search(text):
        return text
    text = _MEASURED_IS.sub(lambda match: named(match.group()), text)
    text = _SIZE.sub("", _COLOUR.sub("", _TICK.sub("", text))).strip()
    if r"\over" in text and len(text) <= MAX_CHARACTERS:
        text = _OVER.sub(lambda match: rf"\frac{{{match[1] or match[3]}}}{{{match[2] or match[4]}}}", text)
    text = _ONE_I.sub("i", _PI.sub(r"\\pi", _BINOMIAL.sub(r"\\binom{\1}{\2}", text)))
    while braced := _BRACED.fullmatch(text):
        text = braced[1].strip() if "," not in braced[1] else rf"\{{{braced[1].strip()}\}}"
        if text.startswith(r"\{"):
            break
    option = _OPTION.fullmatch(text)
    return option[1] if option else text


def alike(gold: str, given: str) -> tuple[str, str]:
    """Both texts, without the names that only one gives coordinates, and with inequalities as intervals for one."""
    if gold[:1] not in ("(", "[") and given[:1] not in ("(", "["):
        return gold, given
    if bool(_COORDINATES.match(gold)) != bool(_COORDINATES.match(given)):
        gold, given = _COORDINATES.sub("", gold), _COORDINATES.sub("", given)
    if _INTERVAL.fullmatch(gold):
        given = _interval(given)
    elif _INTERVAL.fullmatch(given):
        gold = _interval(gold)
    return gold, given


def _interval(text: str) -> str:
    if chain := _CHAIN.fullmatch(text):
        low, first, second, high = chain.groups()
        return f"{'[' if 'le' in first else '('}{low}, {high}{']' if 'le' in second else ')'}"
    if side := _SIDE.fullmatch(text):
        relation, bound = side.groups()
        if "<" in relation or "l" in relation:
            return rf"(-\infty, {bound}{']' if 'le' in relation else ')'}"
        return rf"{'[' if 'ge' in relation else '('}{bound}, \infty)"
    return text


def with_marks(formula: str) -> str:
    """The formula with names for what a parser drops or cancels: derivatives, primes, transposed matrices."""
    if not _TO_MARK.search(formula):
        return formula
    formula = _DERIVATIVE.sub(_derivative, formula)
    formula = _PRIME.sub(lambda match: f"{match[1]}_{{{'p' * match[2].count(chr(39)) or 'p'}}}", formula)
    return _TRANSPOSED.sub(r"\1_{T}", formula)


def _derivative(match: re.Match[str]) -> str:
    order = "" if match["order"] in (None, "1") else match["order"]
    return f"D_{{{order}{match['of'] or match['of_plain'] or ''}{match['by'] or match['by_plain']}}}"


def named(side: str) -> str:
    """A side of an equation with a plain name for what is measured: `AB` for `|AB|`, `\\overline{AB}`, `\\angle AB`.

    Bars around a small letter are left: `|x| = 3` does not say what x is.
    """
    return _MEASURED.sub(lambda match: next(filter(None, match.groups())), side)
