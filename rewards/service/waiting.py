"""Waiting for results in a thread that is to hear signals.

A signal that reaches Python while its main thread is on its way into a lock is heard when that next runs; without a
deadline that is never, and Ctrl-C is lost: twice in a hundred on a machine with eight times as much to do as cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
HEARD_AFTER_S = 0.2
"""Seconds after which such a signal is heard."""


def result_of(future: Future[T]) -> T:
    """What a future comes to, or what it raises."""
    [done] = as_they_come([future])
    return done.result()


def as_they_come(futures: Iterable[Future[T]]) -> Iterator[Future[T]]:
    """Futures as they end."""
    pending = set(futures)
    while pending:
        with suppress(TimeoutError):
            for future in as_completed(pending, HEARD_AFTER_S):
                pending.discard(future)
                yield future
