"""What an answer is, before it is taken for mathematics: several answers, words, a date, a time, a code."""

from __future__ import annotations

import math
import re

_OPEN, _CLOSE = "([{", ")]}"
_SEPARATOR = re.compile(
    r"\s*(?:[,;\n]|\|+|\\lor(?![A-Za-z])|\\text\{|\\\\|&|(?<![\w\\])(?:and/or|or|and|to|vs\.?|versus|oder|ou|through|till|until)(?![\w]))\s*",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"(?:either|both|between|from|any of)\s+", re.IGNORECASE)
_DOTS = re.compile(r"\.\.+|\\[lcd]?dots(?![A-Za-z])")
_TIME = re.compile(r"(\d{1,2})\s?:\s?(\d{2})(?:\s?:\s?(\d{2}))?\s*([ap])?\.?\s?(?:m\.?)?", re.IGNORECASE)
_HOUR = re.compile(r"(\d{1,2})\s?([ap])\.?\s?m\.?", re.IGNORECASE)
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DAY = r"(\d{1,2})(?:\^?\{?(?:st|nd|rd|th)\}?)?"
_NAMED_DATE = re.compile(
    rf"(?:the )?{_DAY} (?:of )?{_MONTH}(?:,? (\d{{4}}))?|{_MONTH} (?:the )?{_DAY}(?:,? (\d{{4}}))?", re.IGNORECASE
)
_DATE = re.compile(r"\d{4}\s?([-/.])\s?\d{1,2}\s?\1\s?\d{1,2}|\d{1,2}\s?([-/.])\s?\d{1,2}\s?\2\s?(?:\d{4}|\d{2})")
_CODE = re.compile(
    r"0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+|(?=\w*[A-Za-z]\d)(?!\d+(?:\.\d+)?[eE][+-]?\d+$)\w+|\d[0-9A-F]*[A-F]{2}[0-9A-F]*"
)
_BASE = re.compile(r"([0-9A-Fa-f]+)\s?_\s?\{?\s?(\d{1,2}|two|three|eight|ten|sixteen)\s?\}?")
_RATIO = re.compile(r"(\d{1,9})((?:\s?:\s?\d{1,9})+)")
_DOTTED = re.compile(r"\d+(?:\.\d+){2,}")
_OPENS_A_FORM = re.compile(
    r"\d+(?: ?[-:]|\.\d+\.|\d{3}| \d|,? -?\d|(?:st|nd|rd|th)? (?:of )?[A-Za-z]{3})"
    r"|[JFMASONDjfmasond][a-z]{2}|the |-\d+,? -?\d|[A-Z],? [A-Z]"
)
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:\.\d{3}){2,}")
_DASHED = re.compile(r"\d+(?:-\d+)+")
_SCORE = re.compile(r"\d+(?: ?(?:-|to|:) ?\d+)+")
_ZEROS = re.compile(r"0\d{3,}")  # Contests write 073 for 73; longer ones are codes.
_ROW = re.compile(r"-?\d+(?:,? -?\d+)+|[A-Z](?:,? [A-Z])+")
_THOUSANDS = re.compile(r"\d{1,3}(?: \d{3})+")
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{\w+\*?\}|\\[A-Za-z]+")
_LETTERS = re.compile(r"[^\W\d_]+")
_OPERATORS = re.compile(r"[+*/^=<>\\{}_|]")
_FUNCTION_NAMES = """
sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp max min gcd lcm det mod sqrt lim inf sup abs
arg deg dim ker tr rank Re Im pi
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_CONNECTIVES = frozenset(("and", "or", "to", "either", "both", "between", "from", "versus", "vs", "through", "until"))
_VOWELS = frozenset("aeiouAEIOUäöüéèàáíóúáéâêîôû")
_Y_WORD = re.compile(r"(?=\w*y)(?!\w*[xz]\w*$)[a-z]{3,}|lynx|onyx", re.IGNORECASE)
"""`sky`, `gym`; not `xyz`."""
_PUNCTUATION = re.compile(r"[^\w%$€£+-]+|(?<!\d)[+-]|[+-](?!\d)")
_LISTED = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+|\s*;\s*|\s*&\s*")
_ORDERED = re.compile(r"\b(?:to|then|before|after|from|than|is|are|of)\b")
_ARTICLE = re.compile(r"^(?:the|a|an) (?=\w)")


def split_parts(text: str) -> list[str]:
    """The parts of a cleaned answer that gives several, at the commas, "or"s and "to"s that stand in no bracket."""
    if r"\begin" in text:
        return [text]
    parts, depth, start, position = [], 0, 0, 0
    text = _BETWEEN.sub("", text, count=1) if _BETWEEN.match(text) else text
    while position < len(text):
        character = text[position]
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif (
            depth <= 0
            and (found := _SEPARATOR.match(text, position))
            and found.group().strip(" ") not in ("", r"\text{")
        ):
            parts.append(text[start:position])
            start = position = found.end()
            continue
        position += 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def verbatim(text: str) -> str | None:
    """A form in which two equal dates, times, codes (hexadecimal, `A1`), ratios or open lists are the same text.

    None for what is none of these. They are compared as they are written: arithmetic would take 3:30 for a tenth.
    """
    if time := _TIME.fullmatch(text):
        hour, minute, second, half = time.groups()
        return f"time {int(hour)}:{minute}:{second or '00'}{(half or '').lower()}"
    if hour := _HOUR.fullmatch(text):
        return f"time {int(hour.group(1))}:00:00{hour.group(2).lower()}"
    if date := _DATE.fullmatch(text):
        parts = re.findall(r"\d+", date.group())
        return "date " + "-".join(str(int(part)) for part in parts)
    if base := _BASE.fullmatch(text):
        return f"base {base.group(2)}: {base.group(1).lower()}"
    if not _OPENS_A_FORM.match(text):
        return _open_list_or_code(text)
    if date := _NAMED_DATE.fullmatch(text):
        found = [part for part in date.groups() if part]
        month = next(part for part in found if part.isalpha()).lower()
        return f"date {month} " + " ".join(str(int(part)) for part in found if not part.isalpha())
    if ratio := _RATIO.fullmatch(text):
        return ratio_form(ratio.group())
    if _DASHED.fullmatch(text):
        return f"score {text}"
    if (_DOTTED.fullmatch(text) and not _GROUPED.fullmatch(text)) or _ZEROS.fullmatch(text):
        return f"code {text}"
    if " " in text and "," not in text and _ROW.fullmatch(text) and not _THOUSANDS.fullmatch(text):
        return row_form(text)
    return _open_list_or_code(text)


def _open_list_or_code(text: str) -> str | None:
    if _DOTS.search(text):
        return "list " + re.sub(r"\s|\\[,;!]", "", _DOTS.sub("...", text))
    if _CODE.fullmatch(text):
        return f"code {text.lower()}"
    return None


def ratio_form(text: str) -> str | None:
    """The form of a ratio of whole numbers in lowest terms; None if the text is none."""
    terms = ratio_terms(text)
    divisor = math.gcd(*terms) or 1
    return "ratio " + ":".join(str(term // divisor) for term in terms) if terms else None


def ratio_terms(text: str) -> tuple[int, ...]:
    """The terms of a ratio of whole numbers, as they are written; empty if the text is none."""
    return tuple(int(term) for term in text.split(":")) if _RATIO.fullmatch(text) else ()


def score_form(text: str) -> str | None:
    """The form of the score of a match, or of digits joined by hyphens; None if the text is none."""
    return "score " + re.sub(r" ?(?:-|to|:) ?", "-", text) if _SCORE.fullmatch(text) else None


def row_form(text: str) -> str | None:
    """The form of numbers or capitals in a row, in which their order matters; None if the text is none."""
    return f"row {text.replace(',', '')}" if _ROW.fullmatch(text) else None


def digits_of_base(form: str | None) -> str | None:
    """The bare digits of a number that is written with its base, from the form that `verbatim` gives."""
    return form.partition(": ")[2] if form and form.startswith("base ") else None


def is_text(text: str) -> bool:
    """Whether a cleaned answer is words, perhaps with numbers among them, and no formula."""
    if _OPERATORS.search(text):
        return False
    words = [word for word in _LETTERS.findall(text) if word not in _FUNCTIONS and word.lower() not in _CONNECTIVES]
    if len(words) == 1 and words[0] == text.strip():
        # Capitals are names and codes (HHT, XYZ), short words without a vowel are products (xy).
        vowels = not _VOWELS.isdisjoint(text) or bool(_Y_WORD.fullmatch(text))
        return len(text) > 1 and (len(text) > 4 or vowels or not text.isascii() or text.isupper())
    return any((len(word) > 2 and not _VOWELS.isdisjoint(word)) or not word.isascii() for word in words)


def has_words(text: str) -> bool:
    """Whether words that are no functions stand in a formula."""
    words = _LETTERS.findall(_COMMAND.sub(" ", text))
    return any(len(word) > 2 and not _VOWELS.isdisjoint(word) and word not in _FUNCTIONS for word in words)


def word_list(text: str) -> list[str] | None:
    """The words of a list, in the order of the alphabet; None if the text is no list, or one in which order matters."""
    parts = _LISTED.split(text)
    if len(parts) < 2 or _ORDERED.search(text) or not all(map(is_text, parts)):
        return None
    return sorted(map(as_words, parts))


def as_words(text: str) -> str:
    """The words of a text in small letters, without punctuation and a leading article."""
    return _ARTICLE.sub("", " ".join(_PUNCTUATION.sub(" ", _COMMAND.sub(" ", text).casefold()).split()))
