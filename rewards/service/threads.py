"""Plain functions that no other process can import: they run here, one after the other, in a thread.

A function that misses its deadline cannot be stopped. Its thread is left behind, and a new one goes on with the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from evolpo.rewards.service.calls import Outcome, describe


@dataclass
class _Work:
    """Calls of one function, in their order."""

    function: Callable[..., Any]
    arguments: Sequence[Any]
    options: Mapping[str, Any]
    outcomes: list[Outcome] = field(default_factory=list)
    began: float | None = None
    """When the call that runs began, by time.monotonic()."""
    dropped: bool = False
    """Whether nobody waits any more."""
    done: Future[None] = field(default_factory=Future)

    def run(self) -> None:
        for argument in self.arguments:
            if self.dropped:
                return
            self.began = time.monotonic()
            self.outcomes.append(_called(self.function, argument, self.options))
        with contextlib.suppress(Exception):  # Cancelled in between.
            self.done.set_result(None)


def _called(function: Callable[..., Any], argument: Any, options: Mapping[str, Any]) -> Outcome:
    started = time.perf_counter()
    try:
        value = function(argument, **options)
        return Outcome("returned", value, elapsed_s=time.perf_counter() - started)
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything; it becomes a status
        return Outcome("raised", error=describe(error), elapsed_s=time.perf_counter() - started)


class _Thread:
    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self.left_behind = False
        threading.Thread(target=self._serve, name="plain-rewards", daemon=True).start()

    def _serve(self) -> None:
        while not self.left_behind:
            work = self.queue.get()
            if not self.left_behind:
                work.run()


_current: _Thread | None = None
_lock = threading.Lock()


def _thread() -> _Thread:
    global _current
    with _lock:
        if _current is None or _current.left_behind:
            _current = _Thread()
        return _current


async def call_in_thread(
    function: Callable[..., Any], arguments: Sequence[Any], options: Mapping[str, Any], timeout_s: float
) -> list[Outcome]:
    """Call a function once for each argument; a call that takes longer than `timeout_s` seconds is a timeout."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(arguments):
        work = _Work(function, arguments[len(outcomes) :], options)
        thread = _thread()
        thread.queue.put(work)
        try:
            outcomes += await _followed(work, thread, timeout_s)
        finally:
            work.dropped = True
    late = f"no result within {timeout_s:g} s"
    return [
        Outcome("timeout", error=late, elapsed_s=one.elapsed_s) if one.elapsed_s > timeout_s else one
        for one in outcomes
    ]


async def _followed(work: _Work, thread: _Thread, timeout_s: float) -> list[Outcome]:
    """The outcomes of a piece of work, up to the first call that misses its deadline."""
    done = asyncio.wrap_future(work.done)
    while True:
        began = work.began
        pause_s = timeout_s if began is None else began + timeout_s - time.monotonic()
        finished, _ = await asyncio.wait({done}, timeout=max(0.01, pause_s))
        if finished:
            return work.outcomes
        count = len(work.outcomes)
        if work.began is not None and work.began == began and time.monotonic() - began >= timeout_s:
            thread.left_behind = True
            late = Outcome("timeout", error=f"no result within {timeout_s:g} s", elapsed_s=timeout_s)
            return [*work.outcomes[:count], late]
        if work.began is None and thread.left_behind:
            return []  # It waits behind a call that hangs: the next thread takes it.
