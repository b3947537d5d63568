"""Answers that reasoning-gym's verifiers give full marks although they are wrong, or say more than an answer.

A verifier that picks what it knows out of an answer and skips the rest takes a denied answer, a doubted one and several
at once. Its family has a language here: an answer is nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from evolpo.rewards.answers.equal import same_answer
from evolpo.rewards.answers.syntax import arithmetic

Entry = Mapping[str, Any]

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_ROLE = re.compile(r"(\w+) is an? (\w+)")
_JOINT = re.compile(r"(?:[\s.,;()]|and\b)*")
_BOX_MOVE = re.compile(r"move\(\w+, (?:square\[\d+(?:\.\d+)?, \d+(?:\.\d+)?\]|\w+)\)")
_OR = re.compile(r"\bor\b", re.IGNORECASE)
_HEDGE = re.compile(
    r"\b(?:not|or|nor|wrong|incorrect|false|never|maybe|perhaps|possibly|alternatively|either|instead|oder|nicht)\b|n't\b",
    re.IGNORECASE,
)
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?"
_MOVE_DISK = r"(?:\d+[.)] )?Move disk \d+ from Peg \d+ to Peg \d+\.?"
_LANGUAGES = {
    "kakurasu": r"[01\s,|\[\]]+",
    "survo": r"[\d\s]+",
    "sokoban": r"[LRUD\s,]+",
    "quantum_lock": r"[ABCabc]+|[ABCabc](?:\s*(?:\u2192|-+>|,|\\(?:right|long)arrow|\\to|\s)\s*[ABCabc])*",
    "rubiks_cube": r"(?:[LRUDFBMESXYZlrudfbmesxyz]w?['2]{0,2}\s*)+",
    "rush_hour": r"[A-Z][+-]\d+(?:[\s,;]+[A-Z][+-]\d+)*",
    "tower_of_hanoi": rf"{_MOVE_DISK}(?:\s*\n\s*{_MOVE_DISK})*",
    "propositional_logic": r"[A-Z\u00ac\u2227\u2228\u2192\u2194()\s]+",
    "time_intervals": rf"\d+(?: days?)?|{_CLOCK}|\d+ days?, {_CLOCK}",
}
"""What an answer is made of, in families whose verifier skips whatever else stands in it."""
LANGUAGES = {family: re.compile(pattern) for family, pattern in _LANGUAGES.items()}


def wrong_for(family: str, answer: str, entry: Entry) -> str:
    """Why an answer is wrong, whatever the family's verifier says; empty if nothing speaks against it."""
    reference = entry.get("answer")
    if isinstance(reference, str) and reference and _hedged(answer) - _hedged(reference):
        return "denies an answer, or offers several"
    if family in LANGUAGES and not LANGUAGES[family].fullmatch(answer.strip()):
        return "says more than an answer"
    check = _CHECKS.get(family)
    try:
        return check(answer, entry) if check else ""
    except ValueError as error:
        return str(error)


def _hedged(text: str) -> set[str]:
    return {word.casefold() for word in _HEDGE.findall(text)}


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
    """knights_knaves' verifier ignores what is said twice, of others, or beside it."""
    given, asked = (sorted(_ROLE.findall(text.casefold())) for text in (answer, str(entry.get("answer"))))
    besides = _ROLE.sub(" ", answer.casefold())
    return "" if given == asked and _JOINT.fullmatch(besides) else "says more, or less, than the reference"


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


def _another_text(answer: str, entry: Entry) -> str:
    """These verifiers add up marks for what is right in an answer, and a longer one may have them all."""
    given, asked = (" ".join(text.casefold().split()) for text in (answer, str(entry.get("answer"))))
    return "" if given == asked else "is another text"


def _other_moves(answer: str, entry: Entry) -> str:
    """boxnet's verifier reads the beginning of a move."""
    moves = [move for step in _plain_json(answer) for move in step.values()]
    return "" if all(_BOX_MOVE.fullmatch(move) for move in moves) else "says more than moves"


def _premise(answer: str, entry: Entry) -> str:
    """propositional_logic's verifier takes any statement that follows, so also one of those that are given."""
    given = [_bare(premise) for premise in (entry.get("metadata") or {}).get("premises") or []]
    return "repeats a premise" if _bare(answer) in given else ""


def _bare(statement: str) -> str:
    return "".join(statement.replace("(", " ").replace(")", " ").split())


def _given_twice(answer: str, entry: Entry) -> str:
    """JSON may have a key twice, of which the last counts."""
    _plain_json(answer)
    return ""


def _plain_json(text: str) -> Any:
    """The value of a text in JSON; raises ValueError if an object has a key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("names a key twice")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=once)


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
    "boxnet": _other_moves,
    "graph_color": _given_twice,
    "propositional_logic": _premise,
    "letter_jumble": _another_text,
    "spell_backward": _another_text,
    "polynomial_equations": _not_only_numbers,
    "figlet_font": _longer,
}
