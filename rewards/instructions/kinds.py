"""The table of instructions that can be checked, by the names that IFEval gives them.

Source: Zhou et al. 2023, Instruction-Following Evaluation for Large Language Models (arXiv 2311.07911), table 1, and
the behaviour of the checkers that were published with it; docs/rewards.md says where these differ, and why.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from evolpo.rewards.instructions import contents, keywords, lengths, whole

Check = Callable[..., bool]

KINDS: Mapping[str, Check] = {
    "keywords:existence": keywords.existence,
    "keywords:frequency": keywords.frequency,
    "keywords:forbidden_words": keywords.forbidden_words,
    "keywords:letter_frequency": keywords.letter_frequency,
    "language:response_language": whole.response_language,
    "length_constraints:number_sentences": lengths.number_sentences,
    "length_constraints:number_words": lengths.number_words,
    "length_constraints:number_paragraphs": lengths.number_paragraphs,
    "length_constraints:nth_paragraph_first_word": lengths.nth_paragraph_first_word,
    "detectable_content:number_placeholders": contents.number_placeholders,
    "detectable_content:postscript": contents.postscript,
    "detectable_format:number_bullet_lists": contents.number_bullet_lists,
    "detectable_format:constrained_response": contents.constrained_response,
    "detectable_format:number_highlighted_sections": contents.number_highlighted_sections,
    "detectable_format:multiple_sections": contents.multiple_sections,
    "detectable_format:json_format": contents.json_format,
    "detectable_format:title": contents.title,
    "combination:two_responses": whole.two_responses,
    "combination:repeat_prompt": whole.repeat_prompt,
    "startend:end_checker": whole.end_checker,
    "startend:quotation": whole.quotation,
    "change_case:english_capital": whole.english_capital,
    "change_case:english_lowercase": whole.english_lowercase,
    "change_case:capital_word_frequency": whole.capital_word_frequency,
    "punctuation:no_comma": whole.no_comma,
}


def checked_parameters(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an instruction as its check takes them; what is null is as good as not there.

    Raises:
        ValueError: one is missing, unknown, or holds something else than it should.
    """
    adapters, required = _parameters(name)
    given = {key: value for key, value in given.items() if value is not None}
    takes = f"it takes {', '.join(adapters) or 'none'}"
    if unknown := [key for key in given if key not in adapters]:
        raise ValueError(f"{unknown[0]!r} is no parameter of it; {takes}")
    if missing := [key for key in required if key not in given]:
        raise ValueError(f"{missing[0]!r} is missing; {takes}")
    checked = {}
    for key, value in given.items():
        try:
            checked[key] = adapters[key].validate_python(value)
        except ValidationError as error:
            why = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"{key!r} is {value!r}: {why[:1].lower()}{why[1:]}") from None
    if checked.get("nth_paragraph", 0) > checked.get("num_paragraphs", 0):
        raise ValueError(f"'nth_paragraph' is {checked['nth_paragraph']}, of {checked['num_paragraphs']} paragraphs")
    return checked


@cache
def _parameters(name: str) -> tuple[dict[str, TypeAdapter[Any]], tuple[str, ...]]:
    """What reads each parameter of an instruction, and those that it cannot do without."""
    check = KINDS[name]
    hints = typing.get_type_hints(check, include_extras=True)
    parameters = list(inspect.signature(check).parameters.values())[1:]
    required = tuple(one.name for one in parameters if one.default is inspect.Parameter.empty)
    return {one.name: TypeAdapter(hints[one.name]) for one in parameters}, required
