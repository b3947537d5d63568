"""The difficulty levels of a run's problems, in an order that a reader expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def in_order(levels: Iterable[str], config: Mapping[str, Any]) -> list[str]:
    """Levels as the data of a run names them, easiest first as a rule; then, by name, those it does not name.

    Args:
        levels: names, in any order; the empty name of problems without a level is left out.
        config: of the run, as read from its `config.yaml`.
    """
    data = config.get("data") or {}
    sources = [*(data.get("train") or []), *(data.get("heldout") or [])]
    place = {name: index for index, name in enumerate(dict.fromkeys(source.get("difficulty") for source in sources))}
    return sorted(set(levels) - {""}, key=lambda level: (place.get(level, len(place)), level))
