"""Instructions about the number of sentences, words and paragraphs."""

from __future__ import annotations

from evolpo.rewards.instructions.units import phrase_pattern, sentences, words
from evolpo.rewards.instructions.values import Count, Index, Relation, Text, fits

_OPENING = "'\"“‘„«([{*_#>` "


def number_sentences(text: str, num_sentences: Count, relation: Relation) -> bool:
    """So many sentences; see `sentences`."""
    return fits(len(sentences(text)), relation, num_sentences)


def number_words(text: str, num_words: Count, relation: Relation) -> bool:
    """So many words; see `words`."""
    return fits(len(words(text)), relation, num_words)


def number_paragraphs(text: str, num_paragraphs: Count, divider: Text = "***") -> bool:
    """Exactly so many paragraphs between dividers; one at either end parts nothing, an empty one between two fails."""
    parts = [part.strip() for part in text.split(divider)]
    if len(parts) > 1:
        parts = parts[not parts[0] :]
        parts = parts[: len(parts) - (not parts[-1])]
    return all(parts) and len(parts) == num_paragraphs


def nth_paragraph_first_word(text: str, num_paragraphs: Index, nth_paragraph: Index, first_word: Text) -> bool:
    """Exactly so many paragraphs between empty lines, of which one begins with this word, whatever marks are at it."""
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    if len(paragraphs) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    start = paragraphs[nth_paragraph - 1].lstrip(_OPENING)
    found = phrase_pattern(first_word, whole_words=True).match(start)
    return found is not None and not start.startswith("-", found.end())
