"""Quantised weights that are held while the weights stay as they are: the micro-batches of one optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")
_held: dict[tuple[int, str], tuple[Tensor, object]] | None = None


@contextmanager
def hold_weights() -> Iterator[None]:
    """Inside, no weight changes or moves: each is quantised once, and what it became is kept until the end.

    This costs two bytes a weight. It is a block, since nothing on a tensor tells that DeepSpeed has written to it.
    """
    global _held
    _held = {}
    try:
        yield
    finally:
        _held = None


def held(weight: Tensor, form: str, make: Callable[[], T]) -> T:
    """What `make` gives for a weight in one of its forms, from before if weights are held."""
    if _held is None:
        return make()
    key = (id(weight), form)
    if key not in _held:
        _held[key] = (weight, make())  # the weight itself too: its id must not be given to another
    made: T = _held[key][1]  # type: ignore[assignment]
    return made
