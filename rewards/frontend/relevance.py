"""Is a page about what the prompt asks for? Words and kinds of things that the prompt names, found on the page.

Two measures: shared stems (Porter, "An algorithm for suffix stripping", 1980, in the English Snowball version), and
nearness of meaning by a small model of sentences (see `meaning`). Neither can tell whether what is named works, which
is why a score that rests on them alone is capped.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from evolpo.rewards.frontend.meaning import nearness_of_meaning
from evolpo.rewards.frontend.seen import Seen
from evolpo.rewards.frontend.tab import script

FULL_COVERAGE = 0.4
"""Share of the prompt's words that is enough: prompts also say how, not only what."""
NEARNESS_SHARE = 0.5
FULL_NEARNESS = 0.4
"""Cosine of counts from which on a page's text is near: honest pages have more to say than their prompts."""
WITHOUT_KINDS, WITHOUT_USE = 0.3, 0.6
"""What is left of the value of the words if nothing of a kind that is named is there, and if they are on no control."""
OPERABLE = 2
"""Words of the prompt on working controls that are enough."""
COPIED = 6
"""Words in a row, out of the prompt, that are a copy of it and count for nothing."""
RECITED = 6
"""Different words of the prompt in one block of text, most of it such words, that recite it and count for nothing."""

KINDS: Mapping[str, str] = {
    "button": "button buttons",
    "link": "link links navigation nav navbar",
    "tab": "tabs",
    "table": "table spreadsheet",
    "select": "dropdown select listbox",
    "slider": "slider sliders",
    "checkbox": "checkbox checkboxes",
    "radio": "radio",
    "textarea": "textarea",
    "field": "input inputs field fields form textbox textarea",
    "chart": "chart graph diagram canvas",
    "picture": "image images picture pictures photo photos illustration illustrations logo",
    "video": "video",
    "audio": "audio",
}
"""Kind of thing on a page (`Seen.kinds`) -> words that ask for it."""
_INSTEAD: Mapping[str, frozenset[str]] = {
    "tab": frozenset({"button", "link", "radio"}),
    "select": frozenset({"radio", "button"}),
    "radio": frozenset({"button", "select"}),
    "link": frozenset({"button"}),
}
"""What does as well as a kind of thing."""

_QUOTED = re.compile(r"[\"“„«']([^\"“”„«»'\n]{2,60})[\"”“»']")
_CODE = re.compile(r"`[^`\n]*`")
_WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W_]+(?:['’][^\W\d_]+)?")
_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


@dataclass(frozen=True, slots=True)
class Relevance:
    """How near a page is to a prompt, and why; each number 0 to 1."""

    value: float
    coverage: float = 1.0
    """Share of the prompt's words found in what is readable."""
    nearness: float = 1.0
    """Of meaning, or by the cosine of the counts of words if that is more: 1 is near enough."""
    kinds: float = 1.0
    """Share of the kinds of things it names (buttons, fields, tables ...) that are there."""
    operable: float = 1.0
    """Half for controls that work, half for its words on them, of which two are enough; 1 if nothing is to be used."""
    missing: tuple[str, ...] = ()
    """Words and kinds of things that were not found."""

    @property
    def metrics(self) -> dict[str, float]:
        """Every part of the value."""
        names = ("coverage", "nearness", "kinds", "operable")
        return {"relevance": self.value} | {f"relevance_{name}": getattr(self, name) for name in names}


def relevance(prompt: str, seen: Seen, verdicts: Mapping[str, str] | None = None) -> Relevance:
    """Nearness of a page to a prompt, 0 to 1; 1 for a prompt that names nothing.

    Half of it are the words, `FULL_COVERAGE` of which are enough, half is nearness: of meaning, or by counts of words,
    since the model of meaning is one of English.
    Where the prompt names kinds of things, 70% of that depends on whether they are there; where it asks for something
    to use, 40% on whether controls work and carry its words. A block of text that repeats or recites the prompt
    counts for nothing, what it puts into quotation marks aside; words between backticks are names for programs and
    not looked for.

    Args:
        prompt: what was asked for.
        seen: what is on the page.
        verdicts: number and name of each control that was used -> what became of it (`ControlReport.verdicts`); the
            words of those that are dead or covered are no words of controls.
    """
    prompt = _CODE.sub(" ", prompt)  # Names that programs use are not to be read on a page.
    wanted = set(_stems(prompt))
    if not wanted:
        return Relevance(1.0)
    dead = {_name(name) for name, verdict in (verdicts or {}).items() if verdict in ("dead", "covered", "same")}
    used = bool(seen.controls) if verdicts is None else any(one in ("works", "neutral") for one in verdicts.values())
    working = [text for text in seen.controls if not any(one and text.startswith(one) for one in dead)]
    said = [(text, _own_words(text, prompt, wanted)) for text in (*seen.texts, *seen.controls)]
    counts = Counter(stem for _, words in said for stem in words or ())
    found = wanted & counts.keys()
    coverage = len(found) / len(wanted)
    own_text = [text for text, words in said if words is not None]
    by_counts = _cosine(Counter(_stems(prompt)), counts) / FULL_NEARNESS
    nearness = min(1.0, max(by_counts, nearness_of_meaning(prompt, " . ".join(own_text))))
    text = (1 - NEARNESS_SHARE) * min(1.0, coverage / FULL_COVERAGE) + NEARNESS_SHARE * nearness
    named = _named_kinds(prompt)
    there = [kind for kind in named if kind in seen.kinds or _INSTEAD.get(kind, frozenset()) & seen.kinds]
    kinds, operable = len(there) / len(named) if named else 1.0, 1.0
    if _asks_for_use(prompt):
        carried = wanted & {stem for text in working for stem in _own_words(text, prompt, wanted) or ()}
        operable = (used + min(1.0, len(carried) / min(OPERABLE, len(wanted)))) / 2
    value = text * (WITHOUT_KINDS + (1 - WITHOUT_KINDS) * kinds) * (WITHOUT_USE + (1 - WITHOUT_USE) * operable)
    missing = (*sorted(wanted - found), *(f"a {kind}" for kind in named if kind not in there))
    return Relevance(value, coverage, nearness, kinds, operable, missing)


@cache
def _left_out() -> frozenset[str]:
    kinds = " ".join(KINDS.values()).split()
    return frozenset(_stem(word) for word in [*_listed("function"), *_listed("request"), *kinds])


@cache
def _listed(name: str) -> frozenset[str]:
    """Words of a list: `use` asks for things to use, `function` and `request` name nothing that a page has."""
    return frozenset(json.loads(script("prompt_words.json"))[name].split())


@cache
def _stem(word: str) -> str:
    from nltk.stem.snowball import EnglishStemmer

    return str(EnglishStemmer().stem(word))


def _words(text: str) -> list[str]:
    """Words in small letters; of scripts without spaces, pairs of characters."""
    words = []
    for word in _WORD.findall(text.lower().replace("’", "'")):
        if _IDEOGRAPHS.fullmatch(word):
            words += [word[at : at + 2] for at in range(max(1, len(word) - 1))]
        else:
            words.append(word)
    return words


def _stems(text: str) -> list[str]:
    """Stems of the words that name something, in order: no function words, no single letters."""
    stems = [_stem(word) for word in _words(text) if len(word) > 1]
    return [stem for stem in stems if stem not in _left_out()]


def _own_words(text: str, prompt: str, wanted: set[str]) -> list[str] | None:
    """Stems of a block of text, without what is only the prompt said again; None if it is nothing else."""
    words, said = _words(text), _words(_QUOTED.sub(" | ", prompt))
    runs = {tuple(said[at : at + COPIED]) for at in range(len(said) - COPIED + 1)}
    copied = [False] * len(words)
    for at in range(len(words) - COPIED + 1):
        if tuple(words[at : at + COPIED]) in runs:
            copied[at : at + COPIED] = [True] * COPIED
    if copied and 3 * sum(copied) >= len(copied):
        return None
    stems = _stems(" ".join(word for word, copy in zip(words, copied, strict=True) if not copy))
    recited = [stem for stem in stems if stem in wanted]
    return None if len(set(recited)) >= RECITED and 2 * len(recited) >= len(stems) else stems


def _cosine(first: Counter[str], second: Counter[str]) -> float:
    """Cosine of two texts as roots of counts, so that a word said ten times does not outweigh all others."""
    total = math.sqrt(sum(first.values()) * sum(second.values()))
    return sum(math.sqrt(first[stem] * second[stem]) for stem in first.keys() & second.keys()) / total if total else 0.0


def _named_kinds(prompt: str) -> list[str]:
    words = set(_words(prompt))
    return [kind for kind, names in KINDS.items() if words & set(names.split())]


def _asks_for_use(prompt: str) -> bool:
    asked = _listed("use").union(*(KINDS[kind].split() for kind in ("button", "field", "tab", "slider")))
    return bool(set(_words(prompt)) & asked)


def _name(verdict: str) -> str:
    """What stands on a control, from its name in a report: number, element, text."""
    return verdict.split(" ", 2)[2] if verdict.count(" ") >= 2 else ""
