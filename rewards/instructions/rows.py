"""What a row of data asks for: instructions in the shapes of IFEval and of RLVR-IFeval.

IFEval: the columns `instruction_id_list` and `kwargs`, a mapping for each name, in which a table filled in nulls.
RLVR-IFeval (the training set of Tulu 3): the answer is a JSON object with `func_name` and the arguments of that
function, all others null.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evolpo.rewards.instructions.kinds import KINDS, checked_parameters
from evolpo.rl.data import Answer


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a prompt."""

    name: str
    """As in `KINDS`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of its check."""

    @property
    def family(self) -> str:
        """What stands before the colon, as `keywords`."""
        return self.name.partition(":")[0]

    def followed_by(self, text: str) -> bool:
        """Whether a text follows it; an empty one follows nothing."""
        return bool(text.strip()) and KINDS[self.name](text, **self.parameters)


def instructions_of(answer: Answer, metadata: Mapping[str, Any]) -> list[Instruction]:
    """The instructions of a prompt, from its columns or its answer.

    Raises:
        ValueError: there are none, or one is unknown or has wrong parameters; names the instruction.
    """
    if metadata.get("instruction_id_list") is not None:
        return _listed(metadata["instruction_id_list"], metadata.get("kwargs"))
    given = _parsed(answer)
    if isinstance(given, Mapping) and given.get("func_name"):
        return [_of_function(given)]
    if isinstance(given, Mapping) and given.get("instruction_id_list") is not None:
        return _listed(given["instruction_id_list"], given.get("kwargs"))
    raise ValueError("it has no instructions: a column 'instruction_id_list', or an answer with 'func_name'")


def _listed(names: Any, parameters: Any) -> list[Instruction]:
    names, parameters = _parsed(names), _parsed(parameters)
    if not isinstance(names, list | tuple) or not names or not all(isinstance(one, str) for one in names):
        raise ValueError(f"'instruction_id_list' is {names!r}; give a list of names")
    if parameters is None:
        parameters = [{}] * len(names)
    if not isinstance(parameters, list | tuple) or len(parameters) != len(names):
        raise ValueError(f"'kwargs' is {_short(parameters)}; give a list with one mapping a name, {len(names)} here")
    return [_instruction(*pair) for pair in zip(names, map(_parsed, parameters), strict=True)]


def _instruction(name: str, parameters: Any) -> Instruction:
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(KINDS)}"
        raise ValueError(f"no instruction is called {name!r}{hint}")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise ValueError(f"{name}: its kwargs are {_short(parameters)}; give a mapping")
    try:
        return Instruction(name, checked_parameters(name, parameters or {}))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _parsed(value: Any) -> Any:
    """A JSON value in a text, as in tables without nested columns; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- RLVR-IFeval ------------------------------------------------------------------------------------------------------

_RELATION = {"quantifier": "relation"}
_EXACTLY: Mapping[str, Any] = {"relation": "exactly"}
FUNCTIONS: Mapping[str, tuple[str, Mapping[str, str], Mapping[str, Any]]] = {
    "verify_keywords": ("keywords:existence", {"keyword_list": "keywords"}, {}),
    "verify_keyword_frequency": (
        "keywords:frequency",
        {"word": "keyword", "N": "frequency"},
        {**_EXACTLY, "whole_words": True},
    ),
    "validate_forbidden_words": ("keywords:forbidden_words", {"forbidden_words": "forbidden_words"}, {}),
    "verify_letter_frequency": (
        "keywords:letter_frequency",
        {"letter": "letter", "N": "let_frequency"},
        {"let_relation": "exactly", "match_case": True},
    ),
    "validate_response_language": ("language:response_language", {"language": "language"}, {}),
    "verify_paragraph_count": ("length_constraints:number_paragraphs", {"N": "num_paragraphs"}, {"divider": "* * *"}),
    "validate_word_constraint": ("length_constraints:number_words", {"N": "num_words", **_RELATION}, {}),
    "verify_sentence_constraint": ("length_constraints:number_sentences", {"N": "num_sentences", **_RELATION}, {}),
    "validate_paragraphs": (
        "length_constraints:nth_paragraph_first_word",
        {"N": "num_paragraphs", "i": "nth_paragraph", "first_word": "first_word"},
        {},
    ),
    "verify_postscript": ("detectable_content:postscript", {"postscript_marker": "postscript_marker"}, {}),
    "validate_placeholders": ("detectable_content:number_placeholders", {"N": "num_placeholders"}, {}),
    "verify_bullet_points": ("detectable_format:number_bullet_lists", {"N": "num_bullets"}, {}),
    "validate_title": ("detectable_format:title", {}, {}),
    "validate_choice": ("detectable_format:constrained_response", {"options": "options"}, {}),
    "validate_highlighted_sections": ("detectable_format:number_highlighted_sections", {"N": "num_highlights"}, {}),
    "validate_sections": (
        "detectable_format:multiple_sections",
        {"N": "num_sections", "section_splitter": "section_spliter"},
        {},
    ),
    "validate_json_format": ("detectable_format:json_format", {}, {}),
    "validate_repeat_prompt": ("combination:repeat_prompt", {"original_prompt": "prompt_to_repeat"}, {}),
    "validate_two_responses": ("combination:two_responses", {}, {}),
    "validate_uppercase": ("change_case:english_capital", {}, {}),
    "validate_lowercase": ("change_case:english_lowercase", {}, {}),
    "validate_frequency_capital_words": (
        "change_case:capital_word_frequency",
        {"N": "capital_frequency", "quantifier": "capital_relation"},
        {},
    ),
    "validate_end": ("startend:end_checker", {"end_phrase": "end_phrase"}, {}),
    "validate_quotation": ("startend:quotation", {}, {}),
    "validate_no_commas": ("punctuation:no_comma", {}, {}),
}
"""Function -> instruction, names of its arguments here, and what its wording in that data set says besides."""


def _of_function(given: Mapping[str, Any]) -> Instruction:
    function = given["func_name"]
    if function not in FUNCTIONS:
        near = difflib.get_close_matches(str(function), FUNCTIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no function of RLVR-IFeval is called {function!r}{hint}")
    name, arguments, wording = FUNCTIONS[function]
    if missing := [theirs for theirs in arguments if given.get(theirs) is None]:
        raise ValueError(f"{function}: {missing[0]!r} is missing; it takes {', '.join(arguments)}")
    try:
        taken = {ours: given[theirs] for theirs, ours in arguments.items()}
        return Instruction(name, checked_parameters(name, {**wording, **taken}))
    except ValueError as error:
        raise ValueError(f"{function} ({name}): {error}") from None
