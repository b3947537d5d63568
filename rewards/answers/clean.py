"""An answer as one line of plain LaTeX: ASCII digits and signs, without markup, fonts and invisible characters."""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ"
_SUBSCRIPT = "₀₁₂₃₄₅₆₇₈₉₊₋₍₎"
_RAISED = re.compile(f"[{_SUPERSCRIPT}]+|[{_SUBSCRIPT}]+")
_SAME_SIGN = {"-": "−﹣－‐‑–—", '"': "“”„″", "'": "‘’`´", ".": "٫。．", ",": "٬،、", "/": "⁄∕"}
_COMMANDS = r"""
× \times  ✕ \times  · \cdot  ⋅ \cdot  ∙ \cdot  ÷ \div  ± \pm  π \pi  ∞ \infty  ≤ \le  ≥ \ge  ≠ \ne  ≈ \approx  ≃ \approx
≅ \approx  ° ^\circ  º ^\circ  ∪ \cup  ∩ \cap  ∈ \in  ∨ \lor  ∧ \land  ∅ \emptyset  ℝ \mathbb{R}  … \ldots
θ \theta  α \alpha  β \beta  γ \gamma  λ \lambda  φ \phi  ω \omega
"""
_PAIRS = _COMMANDS.split()
_SIGNS = str.maketrans(
    {sign: plain for plain, signs in _SAME_SIGN.items() for sign in signs}
    | {sign: f"{command} " for sign, command in zip(_PAIRS[::2], _PAIRS[1::2], strict=True)}
)
_DASH_RANGE = re.compile(r"(?<=\d)\s*[–—―]\s*(?=[-$\d])")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))")
_WORD_ROOT = re.compile(r"\\?sqrt\s*\(([^()]*)\)")
_FONTS = re.compile(
    r"\\(text|textbf|textit|textrm|textnormal|mbox|mathrm|mathbf|mathit|mathsf|mathtt|emph|underline|boxed|fbox|hbox|operatorname)"
    r"\s*\{([^{}]*)\}"
)
_NOTHING = re.compile(
    r"\\(?:displaystyle|textstyle|limits|left|right|big|Big|bigl|bigr|Bigl|Bigr|bigg|Bigg)(?![A-Za-z])\.?|\\!"
)
_SPACE = re.compile(r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~|\\(?:thinspace|enspace|hspace\{[^{}]*\})|\s+")
_LINES = re.compile(r"[\s,;]*\n[\s,;]*")
_BRACED_SIGN = re.compile(r"\{([:=<>])\}")
_BRACED_COMMA = re.compile(r"\{,\}|(?<=\d),(?:\\!|\\,)(?=\d)")
_LETTERS = {
    r"\%": "%",
    r"\$": "$",
    r"\#": "#",
    r"\&": "&",
    r"\_": "_",
    r"\pounds": "£",
    r"\euro": "€",
    r"\degree": r"^\circ ",
}
_FRAC = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_SHORT_FRAC = re.compile(r"\\frac\s*(\d)\s*(?:(\d)|(\{))")
_CIRC = re.compile(r"\^\s*\{?\s*\\circ\s*\}?")
_NAMES = {
    r"\leq": r"\le",
    r"\geq": r"\ge",
    r"\neq": r"\ne",
    r"\vee": r"\lor",
    r"\wedge": r"\land",
    r"\infin": r"\infty",
    "infinity": r"\infty",
    r"\varnothing": r"\emptyset",
    "empty set": r"\emptyset",
}
_RENAMED = re.compile(r"\\(?:leq|geq|neq|vee|wedge|varnothing|infin)(?![A-Za-z])|\binfinity\b|\bempty set\b")
_NO_SOLUTION = re.compile(
    r"\\\{\s*\\\}|the \\emptyset|(?:there (?:is|are) )?no (?:real )?solutions?(?: exists?)?", re.IGNORECASE
)
_STARRED = re.compile(r"(\*\*|\*|__)\s*(\S.*?\S|\S)\s*\1[.,;:!]?", re.DOTALL)
_QUOTED = re.compile(r"([\"'])(.*)\1", re.DOTALL)
_MATH = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_MAX_FONTS = 10


def clean(answer: str) -> str:
    """The answer in plain LaTeX, with single spaces; lines become parts, a dash between two numbers `to`."""
    text = _RAISED.sub(_raised, _DASH_RANGE.sub(" to ", answer))
    text = "".join(map(_plain, text)) if not text.isascii() else text
    text = _unwrapped(text.translate(_SIGNS))
    if r"\begin" not in text:
        text = _LINES.sub(", ", text)
    text = _BRACED_SIGN.sub(r"\1", _BRACED_COMMA.sub(",", text))
    text = _NOTHING.sub("", text)
    for _ in range(_MAX_FONTS):
        text, count = _FONTS.subn(_without_font, text)
        if not count:
            break
    for written, meant in _LETTERS.items():
        text = text.replace(written, meant)
    text = _CIRC.sub(r"^\\circ ", _RENAMED.sub(lambda match: _NAMES[match.group()], text))
    text = _FRAC.sub(r"\\frac", _ROOT.sub(_root, _WORD_ROOT.sub(r"\\sqrt{\1}", text)))
    text = _SHORT_FRAC.sub(_short_fraction, text).replace("√", r"\sqrt ")
    text = _unwrapped(_SPACE.sub(" ", text.replace("**", "^")))
    return r"\emptyset" if _NO_SOLUTION.fullmatch(text) else text


def _plain(character: str) -> str:
    if character in "…⁄∕º":
        return character
    kind = unicodedata.category(character)
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    if kind == "Cf" or (kind == "Cc" and not character.isspace()):
        return ""
    plain = unicodedata.normalize("NFKC", character)
    if "⁄" in plain:  # One half, and so on.
        numerator, _, denominator = plain.partition("⁄")
        return rf"\frac{{{numerator}}}{{{denominator}}}"
    return plain


def _raised(match: re.Match[str]) -> str:
    mark = "^" if match.group()[0] in _SUPERSCRIPT else "_"
    return f"{mark}{{{unicodedata.normalize('NFKC', match.group()).replace('−', '-')}}}"


def _root(match: re.Match[str]) -> str:
    return rf"\sqrt{{{match.group(1) or match.group(2)}}}"


def _short_fraction(match: re.Match[str]) -> str:
    return rf"\frac{{{match.group(1)}}}" + (f"{{{match.group(2)}}}" if match.group(2) else "{")


def _without_font(match: re.Match[str]) -> str:
    font, content = match.groups()
    if font in ("boxed", "fbox") or not content.strip().isalpha():
        return content
    # A name beside a number or another name stays a word of its own.
    return f" {content} "


def _unwrapped(text: str) -> str:
    """Without the marks that stand around all of it: mathematics, bold, quotation, a full stop."""
    while True:
        before = text
        text = text.strip()
        for opening, closing in _MATH:
            inner = text[len(opening) : len(text) - len(closing)]
            if (
                len(text) > len(opening)
                and text.startswith(opening)
                and text.endswith(closing)
                and opening not in inner
            ):
                text = inner.strip()
        if starred := _STARRED.fullmatch(text):
            inner = starred.group(2)
            text = inner if starred.group(1) not in inner else text
        elif quoted := _QUOTED.fullmatch(text):
            text = quoted.group(2)
        if not text.endswith(("...", "..")):
            text = re.sub(r"(?:(?<!\\)\\\s*|[.,;:]\s*)+$", "", text)
        if text == before:
            return text
