"""A process for computing with what a model wrote: no files written, no programs, no network, bounded time and memory.

It is forked from the process that asks, so that heavy libraries are imported once. Three walls stand in it. A
system-call filter lets it compute, read files (libraries import lazily) and answer on its pipe; all else fails. Limits
end a request that takes too much time or memory. And text that some library wants to run is refused and reported: a
verifier that evaluates answers is never a silent verdict.

Verdicts come out as JSON: what the process says is data.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import pickle
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from evolpo.rewards.code.sandbox import SandboxMissing
from evolpo.rewards.service.workers import describe

CPU_S = 2.0
"""CPU seconds of one request."""
WALL_S = 60.0
"""Seconds on the clock after which a request is given up; CPU time ends a busy process long before."""
MEMORY_MIB = 1024
"""Address space beyond what the process has when it starts."""
REPLY_BYTES = 1 << 16

_ALLOWED_CALLS = (
    *(
        "read",
        "pread64",
        "write",
        "close",
        "lseek",
        "fstat",
        "stat",
        "lstat",
        "newfstatat",
        "statx",
        "access",
        "faccessat",
    ),
    *(
        "faccessat2",
        "readlink",
        "readlinkat",
        "getdents64",
        "getcwd",
        "fcntl",
        "ioctl",
        "poll",
        "ppoll",
        "select",
        "pselect6",
    ),
    *("mmap", "munmap", "mremap", "mprotect", "madvise", "brk", "futex", "membarrier", "rseq", "set_robust_list"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "setitimer", "getitimer", "restart_syscall"),
    *("clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time", "times", "getrusage"),
    *("getpid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getppid", "sched_yield", "sched_getaffinity"),
    *("getrandom", "uname", "sysinfo", "exit", "exit_group"),
)
_WRITE_FLAGS = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC


class ComputationFailed(RuntimeError):  # noqa: N818 - says what became of it
    """The function raised, or took more time or memory than it may."""


class TextExecuted(RuntimeError):  # noqa: N818 - says what happened
    """Something in the function wanted to run text as code; it was stopped."""


def sealed_call(function: Callable[..., float | bool], *args: Any, libraries: Sequence[str] = ()) -> float:
    """The result of a function of this package, computed in the sealed process of this process.

    Args:
        function: at the top level of a module.
        args: what can be pickled.
        libraries: modules that the function imports itself; they are imported before the doors close.

    Raises:
        ComputationFailed: it raised, ran out of CPU time or memory, or crashed.
        TextExecuted: a library in it was about to run text as code.
        TimeoutError: no answer for `WALL_S` seconds.
        SandboxMissing: system calls cannot be filtered here.
    """
    request = pickle.dumps((function, args))
    with _lock:
        kind, value = _process(libraries).exchange(request)
    if kind == "returned":
        return float(value)
    raise (TextExecuted if kind == "executed" else ComputationFailed)(str(value))


class _SealedProcess:
    def __init__(self) -> None:
        rules = _system_call_rules()
        self.parent = os.getpid()
        self.imported = frozenset(sys.modules)
        self._connection, child = Pipe()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _live(child, rules)
        child.close()

    def exchange(self, request: bytes) -> tuple[str, Any]:
        """Send a request and wait for the answer; a process that ended is replaced at the next request."""
        try:
            self._connection.send_bytes(request)
            if not self._connection.poll(WALL_S):
                self.end()
                raise TimeoutError(f"no answer within {WALL_S:g} s")
            kind, value = json.loads(self._connection.recv_bytes(REPLY_BYTES))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return "failed", self.end()
        except (OSError, ValueError):
            self.end()
            raise
        return kind, value

    def end(self) -> str:
        """Kill the process and say how it ended."""
        global _current
        _current = None
        self._connection.close()
        code = os.waitstatus_to_exitcode(_reaped(self._pid))
        if code == -signal.SIGPROF:
            return f"it took more than {CPU_S:g} s of CPU time"
        return f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"


def _reaped(pid: int) -> int:
    """Wait for a child that has closed its pipe, and give its status; if it has not ended by itself, kill it."""
    for _ in range(100):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


_current: _SealedProcess | None = None
_lock = threading.RLock()


def _process(libraries: Sequence[str]) -> _SealedProcess:
    global _current
    if _current is not None and _current.parent == os.getpid() and not _current.imported.issuperset(libraries):
        _current.end()
    for name in libraries:
        importlib.import_module(name)
    if _current is None or _current.parent != os.getpid():
        _current = _SealedProcess()
    return _current


def _live(connection: Connection, rules: Any) -> NoReturn:
    """The whole life of the sealed process."""
    try:
        _close_all_but(connection.fileno())
        _limit()
        executed = _refuse_text()
        rules.load()
        while True:
            try:
                request = connection.recv_bytes()
            except (EOFError, OSError):
                os._exit(0)
            connection.send_bytes(json.dumps(_answer(request, executed))[:REPLY_BYTES].encode())
    except BaseException as error:  # noqa: BLE001 - no exception may reach the forked copy of the caller's stack
        with contextlib.suppress(BaseException):
            os.write(2, f"sealed process: {describe(error)}\n".encode())
    finally:
        os._exit(70)


def _answer(request: bytes, executed: list[str]) -> tuple[str, Any]:
    executed.clear()
    signal.setitimer(signal.ITIMER_PROF, CPU_S)  # Its default action ends the process, in the middle of C code, too.
    try:
        function, args = pickle.loads(request)
        answer: tuple[str, Any] = ("returned", float(function(*args)))
    except BaseException as error:  # noqa: BLE001 - verifiers raise anything, a RecursionError and a MemoryError included
        answer = ("raised", describe(error)[:1000])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    return ("executed", executed[0]) if executed else answer


def _close_all_but(descriptor: int) -> None:
    kept = {0, 1, 2, descriptor}
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(entry.name))


def _limit() -> None:
    for number in (signal.SIGPROF, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * os.sysconf("SC_PAGE_SIZE") + (MEMORY_MIB << 20)
    for what, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        resource.setrlimit(what, (limit, limit))


def _refuse_text() -> list[str]:
    """Stop every `eval` and `exec` of text, and the list into which the first words of each are put."""
    executed: list[str] = []

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if event == "exec" and args[0].co_filename == "<string>" and not _own_text(sys._getframe(1)):
            executed.append(f"a verifier wanted to run text as code: {args[0].co_names}, {args[0].co_consts}"[:300])
            raise RuntimeError("text is not run here")

    sys.addaudithook(refuse)
    return executed


def _own_text(caller: FrameType) -> bool:
    """Whether the text is a library's own: classes, and products of monomials, are made from templates."""
    return caller.f_globals.get("__name__") in ("collections", "dataclasses", "sympy.polys.monomials")


@functools.cache
def _system_call_rules() -> Any:
    """The filter, to be loaded in the forked process. Raises SandboxMissing if libseccomp is not installed."""
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise SandboxMissing(f"sealed process: {error}; apt-get install libseccomp2, pip install pyseccomp") from error
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(1))
    for name in _ALLOWED_CALLS:
        # A call that this libseccomp or this processor does not have.
        with contextlib.suppress(ValueError, OSError):
            rules.add_rule(pyseccomp.ALLOW, name)
    for name, position in (("open", 1), ("openat", 2)):
        with contextlib.suppress(ValueError, OSError):
            reading = pyseccomp.Arg(position, pyseccomp.MASKED_EQ, _WRITE_FLAGS, os.O_RDONLY)
            rules.add_rule(pyseccomp.ALLOW, name, reading)
    return rules
