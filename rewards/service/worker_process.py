"""The life of a worker process: a fresh interpreter that runs plugin functions in its main thread.

The main thread is where signals can be caught, and no event loop runs in it unless the function is a coroutine, so that
a plugin finds what it would find in a script of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from evolpo.rewards.service.calls import Blocked, Calls, CoroutineCall, Load, Outcome, Surroundings, Target, describe
from evolpo.rewards.values import group_results, score_of

PROGRESS = struct.Struct("=qd")
"""The number of the call that runs, and when it began on the system-wide monotonic clock."""
BEAT_S = 0.5
"""Pause between two signs of life of an event loop."""
PR_SET_PDEATHSIG = 1

Functions = dict[Target, Callable[..., Any]]
_number: ContextVar[int | None] = ContextVar("number", default=None)


def serve(descriptor: int, progress: int, parent: int, coroutines: bool) -> None:
    """Answer requests on a connection until its other end closes.

    Args:
        descriptor: of the connection.
        progress: of shared memory that holds `PROGRESS`.
        parent: process id of the parent.
        coroutines: whether the functions are coroutines, which run together.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # If memory runs out, let the kernel take this process rather than the trainer.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # What a plugin prints is seen at once, and also when the process is killed.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        if coroutines:
            asyncio.run(_CoroutineServer(connection).serve())
        else:
            _serve_functions(connection, mmap.mmap(progress, PROGRESS.size))


def _serve_functions(connection: Connection, progress: mmap.mmap) -> None:
    functions: Functions = {}
    while True:
        request = pickle.loads(connection.recv_bytes())
        if isinstance(request, Load):
            connection.send_bytes(_packed(_loaded(request, functions)))
            continue
        for offset, argument in enumerate(request.arguments):
            # The time first: whoever reads between the two sees an old call that began late, and waits.
            struct.pack_into("=d", progress, 8, time.monotonic())
            struct.pack_into("=q", progress, 0, request.first + offset)
            # At once, so that a crash in the next call loses nothing.
            connection.send_bytes(_packed(_answer(request, argument, functions[request.target])))


def _loaded(request: Load, functions: Functions) -> Outcome:
    try:
        _enter(request.surroundings)
        functions[request.target] = request.target.load()
        return Outcome("returned")
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything; the parent is told
        return Outcome("raised", error=describe(error))


def _enter(surroundings: Surroundings) -> None:
    sys.path[:] = surroundings.path
    os.chdir(surroundings.folder)
    for name in os.environ.keys() - surroundings.environment.keys():
        del os.environ[name]
    os.environ.update(surroundings.environment)


def _answer(request: Calls, argument: bytes, function: Callable[..., Any]) -> Outcome:
    started = time.perf_counter()
    try:
        value = function(pickle.loads(argument), **pickle.loads(request.options))
        if isinstance(value, Awaitable):
            value = asyncio.run(_awaited(value))
        return Outcome("returned", _plain(value, request.scope), elapsed_s=time.perf_counter() - started)
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything; the parent is told
        return Outcome("raised", error=describe(error), elapsed_s=time.perf_counter() - started)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)  # An alarm that was left behind would hit the next call.


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _plain(value: Any, scope: str) -> Any:
    """Results as scores: numbers of other libraries stay in this process."""
    return group_results(value) if scope == "group" else score_of(value)


def _packed(outcome: Outcome) -> bytes:
    try:
        return pickle.dumps(outcome)
    except BaseException as error:  # noqa: BLE001 - pickling runs the plugin's own classes
        return pickle.dumps(Outcome("raised", error=f"result cannot be sent back: {describe(error)}"))


class _NumberedTask(asyncio.Task[Any]):
    """A task that knows for which call it works, also if the plugin made it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.number = _number.get()


class _CoroutineServer:
    """Runs coroutines together in the event loop of the main thread; a thread watches whether one blocks it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._functions: Functions = {}
        self._limits: dict[int, float] = {}
        """Deadline in seconds of each running call."""
        self._beat = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine, **settings: _NumberedTask(coroutine, loop=loop, **settings))
        self._warm = asyncio.Event()
        ended = loop.create_future()

        def readable() -> None:
            try:
                self._take(pickle.loads(self._connection.recv_bytes()))
            except (EOFError, OSError):
                loop.remove_reader(self._connection.fileno())
                ended.set_result(None)

        loop.add_reader(self._connection.fileno(), readable)
        threading.Thread(target=self._watch, args=(loop,), daemon=True).start()
        while not ended.done():
            self._beat = time.monotonic()
            self._send(None)
            await asyncio.wait({ended}, timeout=BEAT_S)
        os._exit(0)  # Coroutines that refuse to end do not keep the process.

    def _take(self, request: Load | CoroutineCall) -> None:
        if isinstance(request, Load):
            self._send(_loaded(request, self._functions))
            return
        task = asyncio.create_task(self._run(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, call: CoroutineCall) -> None:
        _number.set(call.number)
        cold = not self._warm.is_set()
        limit = self._limits[call.number] = call.cold_timeout_s if cold else call.timeout_s
        started = time.perf_counter()
        task = asyncio.create_task(self._outcome(call))
        if cold:
            first_answer = asyncio.create_task(self._warm.wait())
            await asyncio.wait({task, first_answer}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            first_answer.cancel()
            if self._warm.is_set():
                limit = self._limits[call.number] = time.perf_counter() - started + call.timeout_s
        await asyncio.wait({task}, timeout=max(0.0, limit - (time.perf_counter() - started)))
        if task.done() and task.result().elapsed_s <= limit:
            outcome = task.result()
        else:
            task.cancel()
            elapsed_s = time.perf_counter() - started
            outcome = Outcome("timeout", error=f"no result within {limit:.3g} s", elapsed_s=elapsed_s)
        del self._limits[call.number]
        if outcome.kind == "returned":
            self._warm.set()
        self._send((call.number, outcome))

    async def _outcome(self, call: CoroutineCall) -> Outcome:
        started = time.perf_counter()
        try:
            value = self._functions[call.target](pickle.loads(call.argument), **pickle.loads(call.options))
            if isinstance(value, Awaitable):
                value = await value
            return Outcome("returned", _plain(value, call.scope), elapsed_s=time.perf_counter() - started)
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything; the parent is told
            return Outcome("raised", error=describe(error), elapsed_s=time.perf_counter() - started)

    def _send(self, message: Any) -> None:
        try:
            data = pickle.dumps(message)
        except BaseException as error:  # noqa: BLE001 - pickling runs the plugin's own classes
            number, outcome = message
            error_text = f"result cannot be sent back: {describe(error)}"
            data = pickle.dumps((number, Outcome("raised", error=error_text, elapsed_s=outcome.elapsed_s)))
        with self._sending:
            self._connection.send_bytes(data)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        told = False
        while not told:
            time.sleep(0.1)
            task = asyncio.current_task(loop)
            number = task.number if isinstance(task, _NumberedTask) else None
            blocked_s = time.monotonic() - self._beat - BEAT_S
            if number is not None and blocked_s > self._limits.get(number, float("inf")):
                told = True
                self._send(Blocked(number, blocked_s))
