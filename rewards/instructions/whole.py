"""Instructions about a response as a whole: its parts, start and end, case and punctuation."""

from __future__ import annotations

from functools import cache
from typing import Any

from evolpo.rewards.instructions.language import Language, is_in
from evolpo.rewards.instructions.values import Count, Relation, Text, fits

_PARTS = "******"
# Of all scripts, full-width ones too: who is to avoid commas may not write others.
_COMMAS = frozenset(",،፣᠂᠈‚、，︐︑﹐﹑､⹁꓾꘍꛵߸")


def response_language(text: str, language: Language) -> bool:
    """The text is in this language; see `is_in`."""
    return is_in(text, language)


def two_responses(text: str) -> bool:
    """Exactly two parts that differ, with six asterisks between them; what stands outside of them is empty."""
    parts = [part.strip() for part in text.split(_PARTS)]
    first, last = not parts[0], len(parts) - (not parts[-1])
    parts = parts[first:last]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def repeat_prompt(text: str, prompt_to_repeat: Text) -> bool:
    """The text begins with the prompt, in letters of either case."""
    return text.strip().lower().startswith(prompt_to_repeat.lower())


def end_checker(text: str, end_phrase: Text) -> bool:
    """The text ends with the phrase, in letters of either case; quotation marks around the text make no difference."""
    return text.strip().strip('"').strip().lower().endswith(end_phrase.strip('"').lower())


def quotation(text: str) -> bool:
    """The text begins and ends with a double quotation mark."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def english_capital(text: str) -> bool:
    """All letters are capitals, and the text is English."""
    return text.isupper() and is_in(text, "en")


def english_lowercase(text: str) -> bool:
    """No letter is a capital, and the text is English."""
    return text.islower() and is_in(text, "en")


def capital_word_frequency(text: str, capital_frequency: Count, capital_relation: Relation) -> bool:
    """So many words in capitals alone, `I` and `A` among them; one with hyphens is one word."""
    tokens = _tokenizer().tokenize(text)
    return fits(sum(token.isupper() for token in tokens), capital_relation, capital_frequency)


@cache
def _tokenizer() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


def no_comma(text: str) -> bool:
    """There is no comma, of any script."""
    return _COMMAS.isdisjoint(text)
