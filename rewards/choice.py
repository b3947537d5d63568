r"""Multiple choice: which letter does a response give? One option or nothing: who names two has named none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from evolpo.rewards.answers.accepted import accepted_answers
from evolpo.rewards.answers.extract import extract_answer
from evolpo.rewards.base import Sample, Score, sample_reward
from evolpo.rewards.fit import needs
from evolpo.rl.data import Answer, Prompt

_MARKUP = re.compile(
    r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|mathbb|boxed)\s*\{([^{}]*)\}|[*_`$\"'{}]|\\[()\[\]]"
)
_SPACE = re.compile(r"\\[,;: ]|~|\\q?quad(?![A-Za-z])|\s+")
_LETTER = re.compile(r"(?:option|choice)?\s*[(\[]?\s*([A-Z])\s*[)\]]?\s*[.:]?", re.IGNORECASE)
_LABELLED = re.compile(
    r"(?:option|choice)?\s*(?:[(\[]\s*([A-Z])\s*[)\]]\s*[.:,-]?|([A-Z])\s*[).:,\u2013\u2014-]|([A-Z])\s*(?=\())\s*(\S.*)",
    re.DOTALL | re.IGNORECASE,
)
_TEXT_FIRST = re.compile(r"(\S.*?)\s*[(\[](?:option |choice )?([A-Z])[)\]]\.?", re.DOTALL)
_PHRASE = re.compile(
    r"\b(?:answer|(?:correct|right|best|final)\s+(?:option|choice))\b[*_\s\"']*(?:is\b|[:=])[*_\s:]*"
    r"|\bI(?:'d|'ll| would| will)? (?:choose|pick|select|go with|opt for)\b[*_\s:]*|\u7b54\u6848(?:\u662f|\u4e3a|:)\s*",
    re.IGNORECASE,
)
_DECLARED = re.compile(
    r"\b(?:[Oo]ption|[Cc]hoice)\s+[*_(]*([A-Z])[*_)]*\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
    r"|(?:^|[.:;,]\s+|\bso\s+|\bhence\s+|\bthus\s+|\btherefore,?\s+)[*_(]*([A-Z])[*_)]*\s+is\s+(?:the\s+)?(?:correct|right|best)\b",
    re.MULTILINE,
)
_REASONED = re.compile(r"(?:option\s+|choice\s+)?[(\[]?([A-Z])[)\]]?,?\s+(?:since|because)\s+(\S.*)", re.DOTALL)
_JSON = re.compile(r"""\{?\s*["']?(?:answer|choice|option)["']?\s*:\s*["']?([^"'{}]+?)["']?\s*\}?""", re.IGNORECASE)
_NAMED = re.compile(r"(?:(?:option|choice)\s+)?(?:[(\[]([A-Z])[)\]]|([A-Z]))(?![\w'-])")
_ANOTHER = re.compile(
    r"[(\[][A-Z][)\]]|(?<![\w'])[B-HJ-Z](?![\w'-])"
    r"|(?<![\w'])[AI](?=\s*(?:[.:;,)?!]|$)|\s+(?:is|fits|must|would|seems|looks|also)\b)"
)
_TURN = re.compile(
    r"\b(?:or|no|but|wait|actually|instead(?! of)|rather(?! than)|however|maybe|perhaps|possibly|alternatively|also"
    r"|both|equally|correction|should be|must be|second thoughts?)\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.;!?](?:\s|$)|\n")
_WRONG = re.compile(
    r"\b(?:wrong|incorrect|false|not|cannot|never|fails?|eliminated?|excluded?|ruled? out|rejected?|impossible"
    r"|irrelevant|unlikely|worse|than|unlike|instead of)\b|n't\b",
    re.IGNORECASE,
)
_LISTED = re.compile(r"\s*(?:[/&,+]|\band\b)+\s*[(\[]?[A-Z](?![\w'-])")
_DENIED = re.compile(r"\s*(?:is|seems|would be)?(?:n't|\s+(?:not|wrong|incorrect))\b", re.IGNORECASE)
_WORD = re.compile(r"\s+(?!(?:because|since|as|for|which|due)\b)\w")


def _an_option(prompt: Prompt, **_: Any) -> str | None:
    try:
        _references(prompt.answer, _options(prompt.metadata.get("choices")))
    except ValueError as error:
        return str(error)
    return None


@sample_reward
@needs(_an_option)
def choice_answer(sample: Sample, *, tolerant: bool = False) -> Score:
    r"""1 if the response chooses the option of the reference answer, else 0.

    The options, if the data has them, are `metadata["choices"]`: a list of texts, a mapping from letter to text, or a
    mapping with the lists `label` and `text`.
    Then the text of an option stands for its letter, and letters without an option count nothing.

    The response's last box or `<answer>` is read: a letter (`B`, `(B)`, `B.`, `\text{B}`), a letter with the option's
    text (`B) Paris`), or the text alone. See `chosen_letter` for what `tolerant` adds.

    Args:
        sample: the response; `answer` is the letter or the text of the right option, or a list of these.
        tolerant: take a choice that stands neither in a box nor in `<answer>` tags.

    Raises:
        ValueError: there is no reference answer, it names no option, or the options are malformed.
    """
    options = _options(sample.metadata.get("choices"))
    references = _references(sample.answer, options)
    letter = chosen_letter(sample.text, options, tolerant)
    if letter is None:
        return Score.model_fail("no single option chosen")
    return Score(float(letter in references), artifacts={"answer": letter})


def _references(answer: Answer, options: Mapping[str, str]) -> set[str | None]:
    """The letters of the accepted answers. Raises ValueError if there are none, or one names no option."""
    references = {_exact(one, options) for one in accepted_answers(answer)}
    if None in references:
        raise ValueError(f"the reference answer {answer!r} names no option, or more than one")
    return references


def chosen_letter(text: str, options: Mapping[str, str], tolerant: bool = False) -> str | None:
    """The letter of the option that a response chooses in the end; None if it names none, or more than one.

    If `tolerant`, a response without box or `<answer>` may choose after its last "answer is", "Answer:" or "correct
    option is": a capital letter or an option's text, unless what follows takes it back or offers another one. Else its
    last line may be the choice and nothing more.

    Args:
        text: the response.
        options: letter -> text; without any, all letters of the alphabet count.
        tolerant: look outside of box and tags.
    """
    text = unicodedata.normalize("NFKC", text)  # Full-width letters and letters in circles.
    boxed = extract_answer(text)
    if boxed is not None:
        return _exact(boxed, options)
    if not tolerant:
        return None
    phrases = list(_PHRASE.finditer(text))
    if not phrases:
        return _declared(text, options)
    tail = _MARKUP.sub(_inner, text[phrases[-1].end() :]).strip()
    first_line = tail.partition("\n")[0]
    exact = _exact(first_line, options)
    if exact is None:
        named = _NAMED.match(first_line)
        if named is None:
            return None
        rest = first_line[named.end() :]
        if named.group(2) in ("A", "I") and _WORD.match(rest):
            return None  # "A dog", "I think": a word.
        exact = named.group(1) or named.group(2)
        if (options and exact not in options) or _LISTED.match(rest) or _DENIED.match(rest):
            return None
        tail = tail[named.end() :]
    else:
        tail = tail[len(first_line) :]
    return None if _turns_to_another(tail, exact) or _lists_on(tail, exact, options) else exact


def _declared(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of which a response says that it is right, else the option that is its last line."""
    declared = {match[1] or match[2] for match in _DECLARED.finditer(text)}
    if len(declared) == 1 and not (options and declared - set(options)):
        letter = declared.pop()
        last = list(_DECLARED.finditer(text))[-1]
        return None if _turns_to_another(text[last.end() :], letter) else letter
    lines = [line for line in text.splitlines() if line.strip()]
    if declared or not lines:
        return None
    letter, before = _exact(lines[-1], options), _exact(lines[-2], options) if len(lines) > 1 else None
    return letter if before in (None, letter) else None


def _turns_to_another(rest: str, letter: str) -> bool:
    """Whether a word of doubt is followed by another option in a clause that does not reject it."""
    turn = _TURN.search(rest)
    if turn is None:
        return False
    start = 0
    for end in [*(match.end() for match in _CLAUSE_END.finditer(rest)), len(rest)]:
        clause, offset = rest[start:end], start
        start = end
        if end <= turn.start() or _WRONG.search(clause):
            continue
        others = (match for match in _ANOTHER.finditer(clause) if match.group().strip("()[]") != letter)
        if any(offset + match.start() >= turn.start() or _TURN.search(clause) for match in others):
            return True
    return False


def _lists_on(rest: str, letter: str, options: Mapping[str, str]) -> bool:
    """Whether the choice is the first line of a list of options: the next line is another one and no more."""
    line = rest.lstrip(" ").removeprefix("\n").partition("\n")[0] if rest.lstrip(" ").startswith("\n") else ""
    other = _exact(line, options) if line.strip() else None
    return other is not None and other != letter and _LETTER.fullmatch(line.strip()) is None


def _exact(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of an answer that is one option and nothing else."""
    if stated := _JSON.fullmatch(answer.strip()):
        answer = stated[1]
    answer = _plain(answer)
    by_text = {letter for letter, text in options.items() if _normal(text) == _normal(answer)}
    if single := _LETTER.fullmatch(answer):
        letter = single.group(1).upper()
        return letter if (not options or letter in options) and by_text <= {letter} else None
    if by_text:
        return by_text.pop() if len(by_text) == 1 else None
    reasoned = _REASONED.fullmatch(answer)
    if reasoned and not re.search(r"\bor\b", reasoned[2]) and not _turns_to_another(reasoned[2], reasoned[1]):
        return reasoned[1] if not options or reasoned[1] in options else None
    labelled, reversed_ = _LABELLED.fullmatch(answer), _TEXT_FIRST.fullmatch(answer)
    if labelled:
        letter, text = (labelled.group(1) or labelled.group(2) or labelled.group(3)).upper(), labelled.group(4)
    elif reversed_ and options:
        text, letter = reversed_.groups()
    else:
        return None
    if options:
        texts = {_normal(text), _normal(text.removeprefix("(").removesuffix(")"))}
        return letter if letter in options and _normal(options[letter]) in texts else None
    return None if _ANOTHER.search(text) else letter


def _plain(text: str) -> str:
    """The text without fonts and marks, with single spaces."""
    return _SPACE.sub(" ", _MARKUP.sub(_inner, text)).strip()


def _inner(match: re.Match[str]) -> str:
    return match.group(1) or ""


def _normal(text: str) -> str:
    return _plain(unicodedata.normalize("NFKC", text)).casefold().rstrip(".")


def _options(choices: Any) -> dict[str, str]:
    if choices is None:
        return {}
    if (
        isinstance(choices, Mapping)
        and set(choices) == {"label", "text"}
        and len(choices["label"]) == len(choices["text"])
    ):
        choices = dict(zip(choices["label"], choices["text"], strict=True))
    if isinstance(choices, list | tuple) and len(choices) <= len(ascii_uppercase):
        choices = dict(zip(ascii_uppercase, choices, strict=False))
    if not (isinstance(choices, Mapping) and all(str(letter) in ascii_uppercase for letter in choices)):
        raise ValueError(f"metadata['choices'] is {choices!r}; give a list of texts, or a mapping A, B ... -> text")
    return {str(letter): str(text) for letter, text in choices.items()}
