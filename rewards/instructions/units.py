"""Words and sentences of a text, and where a phrase occurs in it."""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from typing import Any

# Han, kana and their marks; and the scripts of South-East Asia: written without blanks between words.
_IDEOGRAPHS = r"\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_NO_BLANKS = re.compile(rf"[{_IDEOGRAPHS}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+")
# Marks that end a sentence whatever follows: those of East Asia, India, Urdu and Arabic.
_WIDE_END = re.compile(r"(?<=[。！？｡।॥۔؟])[」』”’）)\]]*\s*")
_ABBREVIATIONS = """
a.m al approx apr aug ave ca capt cf co col corp dec dept dr e.g esq est etc feb fig figs ft gen gov hon i.e inc jan jr
lt ltd m messrs mr mrs ms mt nov oct p.m ph.d pp prof rep rev sen sep sept sgt sr st u.k u.n u.s u.s.a viz vol vs
"""
# With a capital after an abbreviation or an ellipsis they begin a sentence.
_STARTERS = """
a after also an and as at because but first for he her his how however i if in it its let my next no now on one our she
so that the their then there therefore these they this those thus to we what when where who why with yes you your
"""


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores; a Chinese or Japanese character is a word of its own.

    `don't` is two words, as in IFEval's own checker. Vowel signs and accents belong to the letter before them, which
    that checker overlooks: it cuts words of Hindi at each of them.
    """
    if not text.isascii():
        text = "".join(one for one in text if unicodedata.category(one)[0] != "M")
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """Sentences by Punkt, which a newline does not end, with common English abbreviations; and those that `。` ends.

    IFEval's checker has Punkt with what it learnt from newspapers, which has to be downloaded.
    """
    found = []
    for part in _WIDE_END.split(text):
        found += [one for one in _punkt().tokenize(part) if one.strip()]
    return found


@cache
def _punkt() -> Any:
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS.split())
    parameters.sent_starters = set(_STARTERS.split())
    tokenizer = PunktSentenceTokenizer()
    tokenizer._params = parameters  # the constructor takes nothing else than a text to train on
    return tokenizer


def occurrences(phrase: str, text: str, *, whole_words: bool) -> int:
    """How often a phrase occurs, in letters of either case; see `phrase_pattern`."""
    return len(phrase_pattern(phrase, whole_words=whole_words).findall(text))


@lru_cache(maxsize=4096)
def phrase_pattern(phrase: str, *, whole_words: bool) -> re.Pattern[str]:
    """What finds a phrase, character by character, each run of blanks in it as any other.

    Args:
        phrase: what to look for.
        whole_words: whether `art` is not found in `start`; in scripts without blanks between words it is.
    """
    pattern = r"\s+".join(map(re.escape, phrase.split()))
    if whole_words:
        before = r"(?<!\w)" if _in_a_word(phrase[0]) else ""
        after = r"(?!\w)" if _in_a_word(phrase[-1]) else ""
        pattern = before + pattern + after
    return re.compile(pattern, re.IGNORECASE)


def _in_a_word(character: str) -> bool:
    return re.match(r"\w", character) is not None and _NO_BLANKS.match(character) is None
