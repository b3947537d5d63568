"""What the parameters of an instruction may hold, and how a count is compared with what was asked for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

Relation = Literal["less than", "at least", "at most", "around", "exactly"]
"""The first two are those of IFEval; `around` is within a tenth, and by one at least."""


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


Count = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0)]
"""A table with nulls makes 3.0 of 3, which is taken."""
Index = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Letter = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]


def fits(count: int, relation: Relation, wanted: int) -> bool:
    """Whether a count stands in this relation to the wanted one."""
    if relation == "less than":
        return count < wanted
    if relation == "at least":
        return count >= wanted
    if relation == "at most":
        return count <= wanted
    return abs(count - wanted) <= (max(1, round(wanted / 10)) if relation == "around" else 0)
