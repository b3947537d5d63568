"""A pool of processes that run plugin functions and can be killed in the middle of them.

A thread cannot be stopped, so one regular expression that backtracks for ever would hold up a whole run. Each worker
is a fresh interpreter that imports only the plugin's own module: neither the trainer's memory, threads and devices
nor its heavy libraries come along. The workers guard against hangs and crashes; they are no sandbox for code that
nobody trusts.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import inspect
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Literal

START_TIMEOUT_S = 120.0
"""Seconds a worker may take to start and to import a plugin; not part of the plugin's own time."""
ORPHAN_GRACE_S = 2.0
"""Seconds past its deadline after which a worker ends by itself: its parent must have died without killing it."""
MAX_WORKERS = 8
"""Most workers in the shared pool, however many cores the machine has."""


@dataclass(frozen=True, slots=True)
class Target:
    """A function, by the name under which a fresh process finds it."""

    module: str
    qualname: str
    preload: tuple[str, ...] = ()
    """Modules imported before the clock starts, for functions that import heavy libraries where they use them."""

    @classmethod
    def of(cls, function: Callable[..., Any], preload: tuple[str, ...] = ()) -> Target:
        """Name a function of this process. Raises ValueError if another process could not import it."""
        target = cls(function.__module__, function.__qualname__, preload)
        importable = target.module != "__main__" and "<" not in target.qualname
        if not importable or target._lookup() is not function:
            raise ValueError(
                f"isolate=True cannot run {target.module}.{target.qualname} in another process; "
                "define it at the top level of a module that can be imported"
            )
        return target

    def load(self) -> Callable[..., Any]:
        """Import everything the function needs and return it. Raises whatever the imports raise."""
        for name in self.preload:
            importlib.import_module(name)
        return self._lookup()

    def _lookup(self) -> Callable[..., Any]:
        found: Any = importlib.import_module(self.module)
        for part in self.qualname.split("."):
            found = getattr(found, part)
        # A decorated function stands in its module as the reward object that wraps it.
        function: Callable[..., Any] = getattr(found, "function", found)
        return function


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one call."""

    kind: Literal["returned", "raised", "timeout", "crashed"]
    value: Any = None
    error: str = ""
    """One line, empty if the function returned."""
    elapsed_s: float = 0.0
    """Seconds the function itself ran, without queueing, start-up and imports."""


def describe(error: BaseException) -> str:
    """One line about an exception: its type, its message and where it was raised."""
    text = f"{type(error).__name__}: {error}".replace("\n", " ")
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text


@dataclass(frozen=True, slots=True)
class _Load:
    target: Target
    path: list[str]


@dataclass(frozen=True, slots=True)
class _Call:
    target: Target
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    timeout_s: float


def serve(descriptor: int) -> None:
    """Answer requests on a connection until its other end closes: the whole life of a worker process."""
    # If memory runs out, let the kernel take this process rather than the trainer.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    connection = Connection(descriptor)
    functions: dict[Target, Callable[..., Any]] = {}
    while True:
        try:
            request = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(_packed(_answer(request, functions)))


def _answer(data: bytes, functions: dict[Target, Callable[..., Any]]) -> Outcome:
    started = time.perf_counter()
    try:
        request: _Load | _Call = pickle.loads(data)
        if isinstance(request, _Load):
            sys.path[:] = request.path
            functions[request.target] = request.target.load()
            return Outcome("returned")
        # The default action of SIGALRM ends the process even inside C code that never lets go of the interpreter.
        signal.setitimer(signal.ITIMER_REAL, request.timeout_s + ORPHAN_GRACE_S)
        started = time.perf_counter()
        value = functions[request.target](*request.args, **request.kwargs)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
        return Outcome("returned", value, elapsed_s=time.perf_counter() - started)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; the parent is told
        return Outcome("raised", error=describe(error), elapsed_s=time.perf_counter() - started)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _packed(outcome: Outcome) -> bytes:
    try:
        return pickle.dumps(outcome)
    except Exception as error:  # noqa: BLE001 - pickling runs the plugin's own classes
        return pickle.dumps(Outcome("raised", error=f"result cannot be sent back: {describe(error)}"))


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self) -> None:
        self._connection, child = Pipe()
        program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({child.fileno()})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            pass_fds=(child.fileno(),),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Children of a plugin die with it, and Ctrl-C is the parent's business.
        )
        child.close()
        self._loaded: set[Target] = set()

    @property
    def alive(self) -> bool:
        """Whether the worker can take another call."""
        return self._process.returncode is None

    def run(self, call: _Call) -> Outcome:
        """Run one call to its end, or kill the worker at its deadline."""
        if call.target not in self._loaded:
            loaded = self._exchange(_Load(call.target, sys.path), START_TIMEOUT_S)
            if loaded.kind == "timeout":
                return Outcome("crashed", error=f"{call.target.module} was not imported within {START_TIMEOUT_S:g} s")
            if loaded.kind != "returned":
                return loaded
            self._loaded.add(call.target)
        return self._exchange(call, call.timeout_s)

    def _exchange(self, request: _Load | _Call, timeout_s: float) -> Outcome:
        started = time.perf_counter()
        try:
            data = pickle.dumps(request)
            self._connection.send_bytes(data)
            if not self._connection.poll(timeout_s):
                self.kill()
                return Outcome("timeout", error=f"no result within {timeout_s:g} s", elapsed_s=timeout_s)
            outcome: Outcome = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1.0)
            self.kill()
            error = f"the worker process died: {_exit_reason(self._process.returncode)}"
            return Outcome("crashed", error=error, elapsed_s=time.perf_counter() - started)
        except Exception as error:  # noqa: BLE001 - pickling runs the classes of samples and results
            return Outcome("raised", error=describe(error), elapsed_s=time.perf_counter() - started)
        return outcome

    def kill(self) -> None:
        """End the process and everything it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()


def _exit_reason(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class WorkerPool:
    """At most `size` workers, started when needed, kept for the next call, replaced after a timeout or a crash."""

    def __init__(self, size: int) -> None:
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="reward-worker")
        # Last in, first out: a light load keeps few workers warm instead of starting all of them.
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()

    def submit(
        self, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout_s: float
    ) -> Future[Outcome]:
        """Queue a call. Its `timeout_s` seconds begin when a worker begins it; the future never raises by itself."""
        return self._threads.submit(self._run, _Call(target, args, kwargs, timeout_s))

    def close(self) -> None:
        """Drop what is queued, wait for what runs (at most its deadline) and end the workers."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while not self._idle.empty():
            self._idle.get_nowait().kill()

    def _run(self, call: _Call) -> Outcome:
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            worker = _Worker()
        outcome = worker.run(call)
        if worker.alive:
            self._idle.put(worker)
        return outcome


_shared: WorkerPool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> WorkerPool:
    """The pool of this process, used by all rewards together: one worker a core, eight at most."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = WorkerPool(min(len(os.sched_getaffinity(0)), MAX_WORKERS))
        return _shared


def close_shared_pool() -> None:
    """End the shared workers; the next call starts new ones."""
    global _shared
    with _shared_lock:
        pool, _shared = _shared, None
    if pool is not None:
        pool.close()


atexit.register(close_shared_pool)
