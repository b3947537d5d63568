"""What a visual judge is asked about a page, and how much each answer counts."""

from __future__ import annotations

import math
from collections.abc import Mapping

CHECKLIST: Mapping[str, str] = {
    "fits_task": "The page shows what the task asks for, with content that belongs to it.",
    "complete": "Nothing looks unfinished: no areas left empty by mistake, no placeholders, no broken images.",
    "readable": "All text can be read without effort: large enough, in good contrast, in lines of comfortable length.",
    "no_overlap": "Nothing overlaps, is cut off or sticks out of its container.",
    "hierarchy": "It is clear at a glance what is most important and what belongs together.",
    "alignment": "Edges, columns and baselines line up.",
    "spacing": "Margins and gaps are consistent, neither cramped nor lost.",
    "colour": "The colours fit together and are used with a purpose.",
    "typography": "Typefaces, sizes and weights are few and consistent.",
    "controls": "Controls can be recognised as controls, and their states can be told apart.",
    "stable": "The three screenshots show no flicker, jump or content that comes and goes without reason.",
    "crafted": "The page looks designed rather than left to the browser's defaults.",
}
"""Name -> statement that is true or false of a page; all count alike unless there are weights."""
ASKED: Mapping[str, str] = {
    "asked_content": "Everything that the task names is there: its texts, data, pictures, fields and controls.",
    "asked_actions": "The record of use shows that the page does what the task asks for when its controls are used; "
    "also true if the task asks for nothing to be used.",
    "asked_details": "Every detail that the task fixes (numbers, names, order, colours, limits) is as it says.",
    "asked_for_this": "The page was made for this task and would not do as well for another one.",
}
"""The same about whether the page is what was asked for: evidence, and no part of how it looks."""
_OVER_TIME = ("stable",)
"""Statements about several screenshots, left out where there is but one."""


def items_of(screenshots: int) -> tuple[str, ...]:
    """The items of the checklist that can be decided on one screenshot, or on several."""
    return tuple(name for name in CHECKLIST if screenshots > 1 or name not in _OVER_TIME)


def item_weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    """The weight of every item; those that are not named weigh nothing, all weigh 1 if none is named.

    Raises:
        ValueError: an unknown item, a weight that is no number or negative, or none above 0.
    """
    if weights is None:
        return dict.fromkeys(CHECKLIST, 1.0)
    for name, weight in weights.items():
        if name not in CHECKLIST:
            raise ValueError(f"there is no item {name} in the checklist; there are {', '.join(CHECKLIST)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(f"the weight {weight!r} of {name} must be a number of 0 or more")
    if not any(weights.get(name, 0) > 0 for name in items_of(1)):
        raise ValueError(f"no item weighs more than 0; give one of {', '.join(items_of(1))} a weight")
    return {name: float(weights.get(name, 0)) for name in CHECKLIST}
