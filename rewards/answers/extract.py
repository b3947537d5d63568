r"""The final answer of a response: what stands in the last box, the last tags, or after the last "the answer is"."""

from __future__ import annotations

import re
from decimal import Decimal

from evolpo.rewards.answers.numbers import LARGE

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_ANSWER_PHRASE = re.compile(
    r"\banswer\b[*_\s]*(?:is\b|[:=])[*_\s:]*|\u7b54\u6848(?:\u662f|\u4e3a|\u70ba|[:\uff1a])[*_\s:\uff1a]*"
    r"|\bantwort (?:ist|lautet)\b[*_\s:]*|\br\u00e9ponse est\b[*_\s:]*|\brespuesta es\b[*_\s:]*",
    re.IGNORECASE,
)
_ANSWER_VERB = re.compile(r"\banswer\b[*_\s]*(?:is\b|[:=])", re.IGNORECASE)
_LATER = re.compile(
    rf"{_ANSWER_VERB.pattern}[*_`\s:$]*(-?\d[\d,]*(?:\.\d+)?)[*_`$]*(?:[.!?](?=\s|$)|\s*(?:\n|$))", re.IGNORECASE
)
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?")
_DOLLARS = re.compile(r"\$+[^$\n]+\$")
_SENTENCE_END = re.compile(r"[.;!?](?:\s|$)|[\u3002\uff01]")
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\uff0d": "-"})
"""Minus sign, en dash and full-width hyphen, which models write for a minus."""
_NUMBER = re.compile(
    r"(?<![\w.,])-?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)"
    r"(?:[eE][+-]?\d+|\s?(?:x|\*|\u00d7|\u00b7|\\times|\\cdot)\s?10(?:\^|\*\*)"
    r"(?:\{-?\d+\}|-?\d+))?(?:/\d+)?(?:\s?\\?%)?"
)
_OTHER_BEFORE = re.compile(r"[\w.)%]\s*(?:,\s*)?\b(?:or|nor|versus|vs\.?)\s+(?:\w+\s+)?\$?\s*$", re.IGNORECASE)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|isn't|wasn't|can't|cannot|couldn't|wrong|incorrect|false)\b\s*:?|\\ne(?:q)?|\u2260|!=)\s*(?:be\s+)?\$?\s*$",
    re.I,
)
_JOINED = re.compile(
    r"[\s$.]*(?:,|;|/|&|\||\\text\s*\{\s*(?:or|and)\s*\}|\\lor\b|\\q?quad"
    r"|\b(?:or|and|oder|und|ou|et|o|y|resp\.?|vs\.?|versus|alternatively|otherwise|else|also|maybe|perhaps|possibly)\b"
    r"|[或和及与])(?:[\s,]*\b(?:or|maybe|perhaps|possibly|even|else|also|alternatively))*[\s$,]*",
    re.IGNORECASE,
)
_LOOK_BACK = 40
_BESIDE = re.compile(r"[\s$.]*")
_DENIAL = r"(?:not|never|isn't|wasn't|can't|cannot|couldn't|nicht|wrong|incorrect|false|rejected?)"
_BOX_DENIED = re.compile(
    rf"(?:\b{_DENIAL}\b|n't\b)\s*:?\s*(?:be\s+|equal(?:s| to)?\s+|the answer\s+)?(?:\$|\\\(|\\\[)*\s*"
    r"\\(?:boxed|fbox)\s*\{$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"\}?[\s$*]*(?:\\\)|\\\])?\s*(?:is|was|would be|seems|can't be)"
    r"(?:n't\b|\s+(?:not|wrong|incorrect|false|impossible)\b)",
    re.IGNORECASE,
)
_FACTOR = re.compile(
    r"\}(\s*(?:\\,|\\ |~)?\s*(?:\\?%|(?:\\times|\\cdot|\u00d7|\u00b7|\*)\s*10\s*(?:\^|\*\*)\s*(?:\{-?\d+\}|-?\d+)"
    rf"|\^\s*(?:\{{?\s*\\circ\s*\}}?|\{{-?\d+\}}|\d)"
    rf"|(?:\\text\s*\{{)?\s*(?:{'|'.join(map(re.escape, sorted(LARGE, key=len, reverse=True)))})s?\b\}}?))",
    re.IGNORECASE,
)
_DOUBT_BEFORE = re.compile(
    r"\b(?:could|might|may|can) (?:also )?be\s*:?\s*\$?\s*$|\b(?:maybe|perhaps|possibly)\s*\$?\s*$|\d\s*[,;]\s*\$?\s*$",
    re.IGNORECASE,
)
_SAYS = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s+)?(?:(?:the|my|our)\s+)?(?:(?:final|correct|right)\s+)?answer\s*(?:is\b|[:=])\s*:?\s*(?=\S)"
    r"|(?:\u6240\u4ee5)?(?:\u6700\u7ec8)?\u7b54\u6848(?:\u662f|\u4e3a|\u70ba)?[:\uff1a]?\s*(?=\S)"
    r"|(?:die )?antwort (?:ist|lautet):?\s+(?=\S)|la r\u00e9ponse est:?\s+(?=\S)|la respuesta es:?\s+(?=\S)",
    re.IGNORECASE,
)
_NOT_ANOTHER = re.compile(r"(?<=\S),?\s+(?:(?:and|but)\s+)?(?:not|rather than|instead of)\s+(?:\$|\\\()?-?[\d\\].*$")


def boxed_contents(text: str) -> list[str]:
    r"""What stands inside each `\boxed{...}` or `\fbox{...}` with balanced braces, in the order of opening."""
    return [text[start:end].strip() for start, end in _boxes(text)]


def extract_answer(text: str, tolerant: bool = False) -> str | None:
    r"""The final answer of a response, or None if there is none.

    The last non-empty `\boxed{...}` with balanced braces; else the last `<answer>...</answer>`. Boxes that are joined
    by a comma, "and" or "or" are one answer of several parts, joined by commas; who says behind it that the answer is
    another number has taken it back. If `tolerant`, else what follows the
    last "the answer is" up to the end of the sentence; else the last number, without thousands commas, unless another
    is offered or it is denied. Dollar signs and a `\text{}` around the whole answer are taken off.
    """
    spans = [(start, end) for start, end in _boxes(text) if text[start:end].strip()]
    if spans:
        if _denied(text, *spans[-1]):
            return None
        answer = _joined(text, spans, "}", re.compile(r"\\(?:boxed|fbox)\s*\{$"))
        return None if _taken_back(answer, text[spans[-1][1] :]) else answer
    tags = list(_tagged(text))
    if len({" ".join(text[start:end].split()) for start, end in tags}) > 1:
        return ", ".join(dict.fromkeys(_unwrapped(text[start:end]) for start, end in tags))
    if tags and (tagged := _joined(text, tags, "</answer>", re.compile(r"<answer>$"))):
        return None if _taken_back(tagged, text[tags[-1][1] :]) else tagged
    return _loose_answer(text) if tolerant else None


def closing_text(text: str) -> str | None:
    """All that follows the last "the answer is", for answers of several lines or sentences; None if there is none."""
    phrases = list(_ANSWER_VERB.finditer(text))
    return text[phrases[-1].end() :].strip() or None if phrases else None


def says_nothing(text: str) -> bool:
    """Whether the response has an empty box or empty tags, and gives no other answer."""
    spans = [*_boxes(text), *_tagged(text)]
    return bool(spans) and not any(text[start:end].strip() for start, end in spans)


def _boxes(text: str) -> list[tuple[int, int]]:
    """Start and end of what each box holds."""
    found: list[tuple[int, int]] = []
    open_braces: list[tuple[bool, int]] = []  # Whether it is a box, and where its content starts.
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            if open_braces:
                boxed, start = open_braces.pop()
                if boxed:
                    found.append((start, match.start()))
        elif token.endswith("{") and token != r"\{":
            open_braces.append((token != "{", match.end()))
    return sorted(found)


def _denied(text: str, start: int, end: int) -> bool:
    """Whether the words directly before or after a box say that it is not the answer."""
    before = text[max(0, start - _LOOK_BACK) : start]
    return bool(_BOX_DENIED.search(before) or _DENIED_AFTER.match(text, end))


def _taken_back(answer: str, rest: str) -> bool:
    """Whether what follows an answer ends a sentence with "the answer is" and another number."""
    later = [found[1] for found in _LATER.finditer(rest)]
    plain = [number.replace(",", "").rstrip(".") for number in (answer.translate(_MINUS), *later[-1:])]
    return bool(later) and all(map(_PLAIN.fullmatch, plain)) and len(set(map(Decimal, plain))) > 1


def _factor(rest: str) -> str:
    """What stands behind a box and belongs to the number in it: a percent sign, an exponent, a word like `million`."""
    found = _FACTOR.match(rest[:_LOOK_BACK])
    return found.group(1) if found else ""


def _tagged(text: str) -> list[tuple[int, int]]:
    """Start and end of the last answer tags, and of those that stand directly before them."""
    spans: list[tuple[int, int]] = []
    before = len(text)
    while len(spans) < 5:
        end = text.rfind("</answer>", 0, before)
        start = text.rfind("<answer>", 0, max(end, 0))
        if start < 0:
            break
        spans.append((start + len("<answer>"), end))
        before = start
    return spans[::-1]


def _joined(text: str, spans: list[tuple[int, int]], close: str, opening: re.Pattern[str]) -> str:
    """The last of some spans, together with those that a mere connective joins to it."""
    parts, same = [spans[-1]], False
    for start, end in reversed(spans[:-1]):
        between = text[end : parts[0][0]]
        if len(between) > _LOOK_BACK or not between.startswith(close):
            break
        head = opening.search(between)
        if head is None:
            break
        joint = between[len(close) : head.start()]
        if _BESIDE.fullmatch(joint):
            same = True
        elif not _JOINED.fullmatch(joint):
            break
        parts.insert(0, (start, end))
    found = [_unwrapped(text[start:end] + _factor(text[end:])) for start, end in parts]
    return ", ".join(dict.fromkeys(found) if same else found)


def _loose_answer(text: str) -> str | None:
    phrases = list(_ANSWER_PHRASE.finditer(text))
    if phrases:
        line = text[phrases[-1].end() :].partition("\n")[0]
        formula = _DOLLARS.match(line)
        phrase = (
            formula.group()
            if formula and _ends(line[formula.end() :])
            else _NOT_ANOTHER.sub("", _SENTENCE_END.split(line, maxsplit=1)[0])
        )
        if answer := _unwrapped(phrase.strip("*_`\"' ")):
            return answer
    text = text.translate(_MINUS)
    last = None
    for last in _NUMBER.finditer(text):  # noqa: B007 - the last match is what is wanted
        pass
    if last is None:
        return None
    before = text[max(0, last.start() - _LOOK_BACK) : last.start()]
    return (
        None
        if any(pattern.search(before) for pattern in (_OTHER_BEFORE, _DENIED_BEFORE, _DOUBT_BEFORE))
        else last.group().replace(",", "").strip()
    )


def _ends(rest: str) -> bool:
    """Whether what follows a formula offers no other one."""
    return not _JOINED.match(rest) or not re.match(r"[\s,;]*(?:or|and|/|\\lor)[\s$]*[\d$\\]", rest, re.IGNORECASE)


def _unwrapped(answer: str) -> str:
    answer = answer.strip().strip("$").strip()
    wrapper = _WRAPPER.fullmatch(answer)
    answer = wrapper.group(1).strip() if wrapper else answer
    return _SAYS.sub("", answer, count=1) if _SAYS.match(answer) else answer
