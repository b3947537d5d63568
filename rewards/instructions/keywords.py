"""Instructions about words and letters. A function is true if the text follows the instruction."""

from __future__ import annotations

from evolpo.rewards.instructions.units import occurrences
from evolpo.rewards.instructions.values import Count, Letter, Relation, Text, Texts, fits


def existence(text: str, keywords: Texts) -> bool:
    """All keywords occur, in letters of either case, inside of words too."""
    return all(occurrences(keyword, text, whole_words=False) for keyword in keywords)


def frequency(text: str, keyword: Text, frequency: Count, relation: Relation, whole_words: bool = False) -> bool:
    """The keyword occurs so many times; inside of words too, unless `whole_words`."""
    return fits(occurrences(keyword, text, whole_words=whole_words), relation, frequency)


def forbidden_words(text: str, forbidden_words: Texts) -> bool:
    """None of the words occurs, in letters of either case, as a whole word."""
    return not any(occurrences(word, text, whole_words=True) for word in forbidden_words)


def letter_frequency(
    text: str, letter: Letter, let_frequency: Count, let_relation: Relation, match_case: bool = False
) -> bool:
    """The letter, or any other character, occurs so many times, in either case unless `match_case`."""
    count = text.count(letter) if match_case else text.lower().count(letter.lower())
    return fits(count, let_relation, let_frequency)
