"""Numbers that English words say: `thirty-four`, `two hundred and five`, `two thirds`."""

from __future__ import annotations

from fractions import Fraction

_UNITS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_PARTS = "half third quarter fifth sixth seventh eighth ninth tenth"
_SMALL = {word: number for number, word in enumerate(_UNITS.split())}
_ROUND = {word: 10 * number for number, word in enumerate(_TENS.split(), start=2)}
_LARGE = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_DENOMINATORS = {word: number for number, word in enumerate(_PARTS.split(), start=2)} | {"fourth": 4, "halve": 2}
MAX_NUMBER_WORDS = 16


def number_in_words(text: str) -> Fraction | None:
    """The number that English words say, such as `thirty-four`, `two hundred and five`, `two thirds`; None if none."""
    words = text.casefold().replace("-", " ").split()
    if not 0 < len(words) <= MAX_NUMBER_WORDS:
        return None
    if words == ["half"]:
        return Fraction(1, 2)
    if len(words) > 1 and (parts := _DENOMINATORS.get(words[-1].removesuffix("s"))):
        count = 1 if words[:-1] in (["a"], ["an"]) else _whole(words[:-1])
        return None if count is None or (count == 1) == words[-1].endswith("s") else Fraction(count, parts)
    whole = _whole(words)
    return None if whole is None else Fraction(whole)


def _whole(words: list[str]) -> int | None:
    """Words from the largest part to the smallest, each once: `two million five`, `one hundred and one`."""
    for name, size in reversed(_LARGE.items()):
        if name not in words:
            continue
        at = words.index(name)
        before, behind = words[:at], words[at + 1 :]
        behind = behind[1:] if behind[:1] == ["and"] and len(behind) > 1 else behind
        count = 1 if before == ["a"] else _whole(before)
        rest = _whole(behind) if behind else 0
        if count is None or rest is None or not 0 < count < 1000 or rest >= size:
            return None
        return count * size + rest
    if not words:
        return None
    tens, *ones = words
    if tens in _ROUND and len(ones) <= 1:
        one = _SMALL.get(ones[0], 0) if ones else 0
        return _ROUND[tens] + one if (0 < one < 10 or not ones) else None
    return _SMALL.get(tens) if not ones else None
