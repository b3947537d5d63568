"""What a sentence or a remark says: `the value of x is 34` gives 34, and so does `34 (thirty-four)`."""

from __future__ import annotations

import re

MAX_CHARACTERS = 200
"""Of an answer that is read as a sentence."""
_NOUN = (
    "answer|value|result|solution|total|number|count|amount|area|perimeter|circumference|volume|length|width|height|"
    "distance|radius|diameter|probability|price|cost|age|speed|time|score|mean|median|average|maximum|minimum"
)
_NAME = r"\$?\\?[A-Za-z]+(?:_\{?\w+\}?)?\$?"
_SUBJECT = (
    rf"(?:the|my|our|its|this|that)?\s?(?:final|correct|total|exact|numerical|required|desired|smallest|largest)?\s?"
    rf"(?:{_NOUN})(?: (?:of|for) (?P<of>{_NAME}(?: {_NAME}){{0,4}}))?|it|this|that|there|\$?[A-Za-z]\$?"
)
_THEN = re.compile(r"(?:so|thus|hence|therefore|then|finally|in total|altogether),?\s+", re.IGNORECASE)
_ARROWS = re.compile(
    r"(?:(?:\\(?:therefore|Rightarrow|Longrightarrow|rightarrow|longrightarrow|implies|to)(?![A-Za-z])"
    r"|[∴⇒⟹→]|[=-]>)\s*)+"
)
_FORMULA = r"(?=[-+$\d\\(.]|[A-Za-z] ?=)"
_STATES = (
    rf"(?:(?:{_SUBJECT})(?: is| are|'s| equals| is equal to| will be| must be| comes to)"
    rf"|(?:I|we|you|one)(?: finally)? (?:get|got|obtain|find|found|have|conclude|computed?|calculated?)s?(?: that)?"
    rf"(?: {_NAME} (?:is|equals))?):?\s+"
)
_LEAD = re.compile(_STATES + _FORMULA, re.IGNORECASE)
_WORDS_LEAD = re.compile(rf"(?:{_THEN.pattern})?(?:{_STATES})?(?:(?:on|in|at)\s+)?", re.IGNORECASE)
_STARTS = re.compile(_FORMULA)
_CLOSE = re.compile(r"\s+is (?:the|my|our) (?:final |correct )?answer$", re.IGNORECASE)
_REMARK = re.compile(r"\s\((?:in total|total|altogether|overall|approximately|approx\.?|exactly|exact|units?)\)$", re.I)
_DOLLARS = re.compile(r"\$([^$]+)\$")
_CHANGES = """
not no twice double triple half third quarter square squared cube cubed root inverse reciprocal opposite negative minus
plus times over by sum difference product quotient or and nor if without except than
"""
_WORK = frozenset(_CHANGES.split())
"""Words that make something else of what they stand beside."""
_BESIDE = re.compile(
    r"(.+?)\s?\((?:or |i\.e\.,? |that is,? |in words:? |= ?|(?:\\approx|about|approximately) ?)?(.+)\)"
)
_OR = re.compile(r"(.+?),? (?:or|i\.e\.,?|that is,?) (.+)")


def said(text: str) -> str:
    """The number or formula that a cleaned answer states, without the words around it; the text itself if it is none.

    Words that make something else of what they name (`the value of twice x is 34`) are left, and so is every doubt.
    """
    if len(text) > MAX_CHARACTERS:
        return text
    text = _REMARK.sub("", _CLOSE.sub("", text))
    if arrows := _ARROWS.match(text):
        text = text[arrows.end() :]
    then = _THEN.match(text)
    rest = text[then.end() :] if then else text
    if (lead := _LEAD.match(rest)) and _WORK.isdisjoint((lead["of"] or "").casefold().split()):
        rest = rest[lead.end() :]
    elif not _STARTS.match(rest):
        return text
    found = _DOLLARS.fullmatch(rest)
    return found[1].strip() if found else rest


def named_words(text: str) -> str:
    """The words that a cleaned answer names: `Monday` in `It is on Monday`, `even` in `The number is even`."""
    if len(text) > MAX_CHARACTERS:
        return text
    lead = _WORDS_LEAD.match(text)
    return text[lead.end() :] if lead and _WORK.isdisjoint((lead["of"] or "").casefold().split()) else text


def spellings(text: str) -> tuple[str, str] | None:
    """The two halves of `34 (thirty-four)` and `1/2 or 0.5`, which are one answer if both are the reference."""
    if len(text) > MAX_CHARACTERS:
        return None
    found = _BESIDE.fullmatch(text) or _OR.fullmatch(text)
    if found is None or found[1].strip() == found[2].strip():
        return None
    return found[1].strip(), found[2].strip()
