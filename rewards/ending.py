"""What this process has started and must not leave behind, whether it ends in the ordinary way or at once."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable

_endings: list[Callable[[], None]] = []


def at_end(end: Callable[[], None]) -> None:
    """Call a function when this process comes to its end, or at `end_all`."""
    _endings.append(end)
    atexit.register(end)


def end_all() -> None:
    """Call all of them now, for a process that is about to end without Python's own tidying up."""
    for end in reversed(_endings):
        with contextlib.suppress(Exception):
            end()
