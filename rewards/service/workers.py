"""Processes that run plugin functions and can be killed in the middle of them.

A thread cannot be stopped, so one regular expression that backtracks for ever would hold up a whole run. Each worker
is a fresh interpreter that imports only the plugin's own module: neither the trainer's memory, threads and devices
nor its heavy libraries come along. The workers guard against hangs and crashes; they are no sandbox for code that
nobody trusts.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from evolpo.rewards.ending import at_end
from evolpo.rewards.service.calls import (
    Blocked,
    Calls,
    CoroutineCall,
    Outcome,
    Target,
    describe,
)
from evolpo.rewards.service.process import WorkerProcess, sweep

__all__ = ["Outcome", "Target", "WorkerPool", "close_shared_pool", "describe", "hold_pool", "release_pool"]

MAX_WORKERS = 8
"""Most workers in the shared pool, however many cores the machine has."""
COLD_FACTOR = 3.0
"""The first call in a fresh process may take this many times what first calls took before, besides the deadline."""
SILENCE_S = 5.0
"""Seconds past all deadlines without a sign of life after which an event loop counts as blocked."""
CLOSED = "the workers were closed before the result was there"


class _ColdStarts:
    """How long the first call in a fresh process may take, by target."""

    def __init__(self) -> None:
        self._took: dict[Target, float] = {}
        self._failed: dict[Target, int] = {}

    def limit(self, target: Target, timeout_s: float, cold_timeout_s: float) -> float:
        """Seconds: by what was seen before; without that `cold_timeout_s`, and a quarter of it after every failure."""
        if target in self._took:
            return timeout_s + COLD_FACTOR * self._took[target]
        return max(timeout_s, cold_timeout_s * 0.25 ** self._failed.get(target, 0))

    def note(self, target: Target, outcome: Outcome) -> None:
        """Learn from a first call."""
        if outcome.kind == "returned":
            self._took[target] = max(self._took.get(target, 0.0), outcome.elapsed_s)
        elif outcome.kind == "timeout":
            self._failed[target] = self._failed.get(target, 0) + 1


@dataclass
class _Batch:
    """Calls of one function that a worker runs one after the other."""

    target: Target
    arguments: list[bytes]
    options: bytes
    scope: str
    timeout_s: float
    cold_timeout_s: float
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    future: Future[list[Outcome]] = field(default_factory=Future)

    def missing(self) -> list[int]:
        return [index for index in range(len(self.arguments)) if index not in self.outcomes]

    def answer(self) -> None:
        if not self.future.done():
            with contextlib.suppress(Exception):  # Cancelled in between.
                self.future.set_result([self.outcomes[index] for index in range(len(self.arguments))])


class _Lane:
    """A thread and the worker process it uses, replaced after a timeout or a crash."""

    def __init__(self, pool: WorkerPool) -> None:
        self.inbox: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self.process: WorkerProcess | None = None
        self._pool = pool
        self._next = 0
        self._warm: set[Target] = set()
        self.thread = threading.Thread(target=self._serve, name="reward-worker", daemon=True)
        self.thread.start()

    def has(self, target: Target) -> bool:
        """Whether the process has imported the target."""
        return self.process is not None and target in self.process.loaded

    def _serve(self) -> None:
        while (batch := self.inbox.get()) is not None:
            following: _Batch | None = batch
            while following is not None:
                self._finish(following)
                following = self._pool.next_batch(self)
        if self.process is not None:
            self.process.kill()

    def _finish(self, batch: _Batch) -> None:
        """Run a batch to its end, on several processes if some of them die."""
        idle_deaths = 0
        if batch.future.cancelled():
            return
        while (missing := batch.missing()) and not self._pool.closed:
            before = len(missing)
            try:
                self._run(batch, missing)
            except (EOFError, OSError):
                self._crashed(batch, missing)
            except Exception as error:  # noqa: BLE001 - nothing may leave a caller without an answer
                outcome = Outcome("raised", error=describe(error))
                batch.outcomes |= dict.fromkeys(batch.missing(), outcome)
            idle_deaths += len(batch.missing()) == before
            if idle_deaths > 2:
                outcome = Outcome("crashed", error="worker processes die before they begin")
                batch.outcomes |= dict.fromkeys(batch.missing(), outcome)
        batch.outcomes |= dict.fromkeys(batch.missing(), Outcome("crashed", error=CLOSED))
        batch.answer()

    def _run(self, batch: _Batch, missing: list[int]) -> None:
        process = self._process_for(batch.target)
        failed = process.load(batch.target)
        if failed is not None:
            batch.outcomes |= dict.fromkeys(missing, failed)
            return
        first, self._next = self._next, self._next + len(missing)
        arguments = [batch.arguments[index] for index in missing]
        request = Calls(batch.target, first, arguments, batch.options, batch.scope)
        process.connection.send_bytes(pickle.dumps(request))
        received = 0
        while received < len(missing):
            number, began = process.running()
            limit = self._limit(batch)
            left = began + limit - time.monotonic() if number >= first + received else 1.0
            if process.connection.poll(min(max(left, 0.0), 1.0)):
                self._received(batch, missing[received], process.connection.recv_bytes())
                received += 1
            elif left <= 0:
                process.kill()
                cold = " in its first call in a process (rewards.cold_timeout_s)" if limit > 2 * batch.timeout_s else ""
                outcome = Outcome("timeout", error=f"no result within {limit:.3g} s{cold}", elapsed_s=limit)
                self._note(batch, missing[number - first], outcome)
                return

    def _limit(self, batch: _Batch) -> float:
        if batch.target in self._warm:
            return batch.timeout_s
        return self._pool.cold.limit(batch.target, batch.timeout_s, batch.cold_timeout_s)

    def _received(self, batch: _Batch, index: int, data: bytes) -> None:
        try:
            outcome: Outcome = pickle.loads(data)
        except Exception as error:  # noqa: BLE001 - unpickling runs the plugin's own classes
            outcome = Outcome("raised", error=f"result cannot be read: {describe(error)}")
        limit = self._limit(batch)
        if outcome.elapsed_s > limit:
            outcome = Outcome("timeout", error=f"no result within {limit:g} s", elapsed_s=outcome.elapsed_s)
        self._note(batch, index, outcome)

    def _note(self, batch: _Batch, index: int, outcome: Outcome) -> None:
        if batch.target not in self._warm:
            self._pool.cold.note(batch.target, outcome)
            if outcome.kind == "returned":
                self._warm.add(batch.target)
        batch.outcomes[index] = outcome

    def _crashed(self, batch: _Batch, missing: list[int]) -> None:
        """The process died in the call it had begun; a process that died before is no fault of the call."""
        if self.process is None or self._pool.closed:
            return
        number, began = self.process.running()
        reason = self.process.death()
        begun = number - (self._next - len(missing))
        if 0 <= begun < len(missing):
            elapsed_s = time.monotonic() - began
            batch.outcomes.setdefault(missing[begun], Outcome("crashed", error=reason, elapsed_s=elapsed_s))

    def _process_for(self, target: Target) -> WorkerProcess:
        if self.process is not None and self.process.alive and self.process.holds_older(target):
            self.process.kill()
        if self.process is None or not self.process.alive:
            self.process, self._next, self._warm = WorkerProcess(coroutines=False), 0, set()
        return self.process


class _CoroutineWorker:
    """The process in which the coroutines of one target run together."""

    def __init__(self, pool: WorkerPool, target: Target) -> None:
        self._pool = pool
        self._target = target
        self._lock = threading.Lock()
        self._pending: dict[int, tuple[CoroutineCall, Future[Outcome]]] = {}
        self._next = 0
        self._outbox: queue.SimpleQueue[CoroutineCall | None] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._closed = False
        self.process: WorkerProcess | None = None
        # A process dies with the thread that started it, so this one starts it and stays.
        self.thread = threading.Thread(target=self._serve, name="reward-coroutines", daemon=True)
        self.thread.start()

    def submit(self, argument: bytes, options: bytes, scope: str, timeout_s: float, cold_s: float) -> Future[Outcome]:
        """Run a call beside those that run already."""
        future: Future[Outcome] = Future()
        with self._lock:
            limit = self._pool.cold.limit(self._target, timeout_s, cold_s)
            call = CoroutineCall(self._target, self._next, argument, options, scope, timeout_s, limit)
            self._pending[self._next] = (call, future)
            self._next += 1
            self._outbox.put(call)
        self._wake.set()
        return future

    def close(self) -> None:
        """End the process; what it has not answered is answered as crashed."""
        self._closed = True
        if self.process is not None:
            self.process.end()
        self._wake.set()

    def _serve(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            while self._pending and not self._closed:
                self._converse()
        self._answer_all(Outcome("crashed", error=CLOSED))

    def _converse(self) -> None:
        """Start a process, hand it all calls and pass on what it answers, until it ends."""
        self.process = process = WorkerProcess(coroutines=True)
        try:
            failed = process.load(self._target)
            if failed is not None:
                self._answer_all(failed)
                return
            with self._lock:
                self._outbox = queue.SimpleQueue()
                for call, _ in self._pending.values():
                    self._outbox.put(call)
                sending = threading.Thread(target=self._send, args=(process, self._outbox), daemon=True)
            sending.start()
            self._listen(process)
        except (EOFError, OSError):
            if not self._closed:
                self._answer_all(Outcome("crashed", error=process.death()))
        finally:
            process.kill()
            self._outbox.put(None)

    def _send(self, process: WorkerProcess, outbox: queue.SimpleQueue[CoroutineCall | None]) -> None:
        """Hand over calls in a thread of its own: a process that does not read holds up nobody else."""
        with contextlib.suppress(OSError):
            while (call := outbox.get()) is not None:
                process.connection.send_bytes(pickle.dumps(call))

    def _listen(self, process: WorkerProcess) -> None:
        warm = False
        while not self._closed:
            with self._lock:
                limits = [max(call.timeout_s, call.cold_timeout_s) for call, _ in self._pending.values()]
            patience = max(limits, default=0.0) + SILENCE_S
            if not process.connection.poll(patience):
                error = f"nothing heard for {patience:g} s: a coroutine blocks the event loop"
                self._answer_all(Outcome("timeout", error=error, elapsed_s=patience))
                return
            message = pickle.loads(process.connection.recv_bytes())
            if isinstance(message, Blocked):
                error = f"no result within {message.seconds:.3g} s, and the coroutine blocks its event loop"
                self._answer(message.number, Outcome("timeout", error=error, elapsed_s=message.seconds))
                return
            if message is not None:
                number, outcome = message
                if not warm:
                    self._pool.cold.note(self._target, outcome)
                warm = warm or outcome.kind == "returned"
                self._answer(number, outcome)

    def _answer(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            _, future = self._pending.pop(number, (None, Future()))
        with contextlib.suppress(Exception):  # Cancelled in between.
            future.set_result(outcome)

    def _answer_all(self, outcome: Outcome) -> None:
        for number in list(self._pending):
            self._answer(number, outcome)


class WorkerPool:
    """At most `size` workers for functions, and one for each coroutine; started when needed, kept for the next call."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._waiting: list[_Batch] = []
        self._lanes: list[_Lane] = []
        # Last in, first out: a light load keeps few workers warm instead of starting all of them.
        self._idle: list[_Lane] = []
        self._coroutines: dict[Target, _CoroutineWorker] = {}
        self.cold = _ColdStarts()
        self.closed = False

    def submit(
        self,
        target: Target,
        arguments: Sequence[Any],
        options: Mapping[str, Any],
        timeout_s: float,
        *,
        scope: str = "sample",
        cold_timeout_s: float = 0.0,
    ) -> Future[list[Outcome]]:
        """Queue calls of a function, one an argument. The future never raises by itself.

        Args:
            target: the function.
            arguments: the first argument of each call.
            options: keyword arguments of all of them.
            timeout_s: seconds of a call, from when a worker begins it.
            scope: `sample` or `group`: how the results are read.
            cold_timeout_s: seconds of the first call in a fresh process while nothing is known of the function.
        """
        packed, outcomes = _pickled(arguments)
        batch = _Batch(target, packed, pickle.dumps(dict(options)), scope, timeout_s, cold_timeout_s, outcomes)
        with self._lock:
            if self.closed:
                batch.outcomes |= dict.fromkeys(batch.missing(), Outcome("crashed", error=CLOSED))
                batch.answer()
            elif self._idle:
                lane = next((one for one in reversed(self._idle) if one.has(target)), self._idle[-1])
                self._idle.remove(lane)
                lane.inbox.put(batch)
            elif len(self._lanes) < self._size:
                self._lanes.append(_Lane(self))
                self._lanes[-1].inbox.put(batch)
            else:
                self._waiting.append(batch)
        return batch.future

    def submit_coroutine(
        self,
        target: Target,
        argument: Any,
        options: Mapping[str, Any],
        timeout_s: float,
        *,
        scope: str = "sample",
        cold_timeout_s: float = 0.0,
    ) -> Future[Outcome]:
        """Run a call of a coroutine at once, beside those that run already; the arguments are those of `submit`."""
        [packed], outcomes = _pickled([argument])
        with self._lock:
            if self.closed or outcomes:
                future: Future[Outcome] = Future()
                future.set_result(outcomes.get(0, Outcome("crashed", error=CLOSED)))
                return future
            for old in [one for one in self._coroutines if one.is_older(target)]:
                self._coroutines.pop(old).close()
            if target not in self._coroutines:
                self._coroutines[target] = _CoroutineWorker(self, target)
            worker = self._coroutines[target]
        return worker.submit(packed, pickle.dumps(dict(options)), scope, timeout_s, cold_timeout_s)

    def next_batch(self, lane: _Lane) -> _Batch | None:
        """What a lane does next; without work it is idle."""
        with self._lock:
            if self._waiting and not self.closed:
                return self._waiting.pop(0)
            self._idle.append(lane)
            return None

    def close(self) -> None:
        """End the workers at once; what they have not answered yet is answered as crashed."""
        with self._lock:
            self.closed = True
            waiting, self._waiting = self._waiting, []
        for batch in waiting:
            batch.outcomes |= dict.fromkeys(batch.missing(), Outcome("crashed", error=CLOSED))
            batch.answer()
        users: list[_Lane | _CoroutineWorker] = [*self._lanes, *self._coroutines.values()]
        processes = [one.process for one in users if one.process is not None]
        for worker in self._coroutines.values():
            worker.close()
        for process in processes:
            process.end()
        sweep({process.mark for process in processes})
        for lane in self._lanes:
            lane.inbox.put(None)
        for one in users:
            one.thread.join()


def _pickled(arguments: Sequence[Any]) -> tuple[list[bytes], dict[int, Outcome]]:
    """Each argument pickled, and the outcome of those that cannot be."""
    packed, failed = [], {}
    for index, argument in enumerate(arguments):
        try:
            packed.append(pickle.dumps(argument))
        except Exception as error:  # noqa: BLE001 - pickling runs the classes of the metadata
            packed.append(b"")
            failed[index] = Outcome("raised", error=f"the sample cannot be sent to a worker: {describe(error)}")
    return packed, failed


_shared: WorkerPool | None = None
_holders = 0
_shared_lock = threading.Lock()


def shared_pool() -> WorkerPool:
    """The pool of this process, used by all rewards together: one worker a core, eight at most."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = WorkerPool(worker_count())
        return _shared


def worker_count() -> int:
    """Workers of the shared pool."""
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def hold_pool() -> None:
    """Keep the shared pool until `release_pool`."""
    global _holders
    with _shared_lock:
        _holders += 1


def release_pool() -> None:
    """End the shared workers if nobody else holds them; the next call starts new ones."""
    global _holders
    with _shared_lock:
        _holders -= 1
        last = _holders <= 0
    if last:
        close_shared_pool()


def close_shared_pool() -> None:
    """End the shared workers; the next call starts new ones."""
    global _shared
    with _shared_lock:
        pool, _shared = _shared, None
    if pool is not None:
        pool.close()


at_end(close_shared_pool)
