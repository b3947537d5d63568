"""One running sandbox, seen from outside: what it may use, and feeding, reading and ending it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Literal

from evolpo.rewards.code.usage import ControlGroup, ProcessTree
from evolpo.rewards.visible import visible

SETUP_TIMEOUT_S = 60.0
"""Seconds until the sandbox must stand, and in which it must be gone after its end; not part of the command's time."""

LOOK_S = 0.05
"""Seconds between two looks at what the processes inside use."""
GRACE_S = 0.2
"""Seconds of waiting after which a command is taken for one that waits rather than works."""

Kind = Literal["finished", "timeout", "output_limit", "memory_limit", "killed"]


class SandboxError(RuntimeError):
    """The sandbox failed around the command; this says nothing about the command."""


class SandboxCancelled(SandboxError):  # noqa: N818 - nothing went wrong
    """Nobody waits for the result any more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a command may use, with all that it starts."""

    cpu_s: float = 4.0
    """CPU seconds of all processes and threads together."""
    idle_s: float = 4.0
    """Seconds in which nothing inside runs or wants to run; seconds in which others have the cores do not count."""
    wall_s: float = 120.0
    """Seconds on the clock, from the moment at which the sandbox starts, until everything inside is killed. A far
    bound: on a busy machine a command may take many times its CPU seconds."""
    memory_mib: int = 512
    """Memory in MiB of all processes together, the files that they write included."""
    reserve_mib: int = 0
    """Address space in MiB that the interpreter reserves beyond that without using it."""
    processes: int = 64
    """Processes and threads at one time."""
    files_mib: int = 64
    """Total size in MiB of the files it writes to `/tmp`, and as much again in `/dev/shm`."""
    output_bytes: int = 1 << 24
    """Bytes on the standard output, and as many on the standard error."""


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """What became of a command."""

    kind: Kind
    """`finished` by itself; `timeout`: out of CPU seconds, waited too long, or out of time on the clock;
    `output_limit`: wrote too much; `memory_limit`: held too much; `killed` by a signal.
    A command may pose as `killed` or as out of CPU time through its exit code."""
    exit_code: int | None
    """As a shell gives it, 128 + signal for a killed command; None if it was ended for a limit."""
    stdout: bytes
    """What it wrote, at most `output_bytes`."""
    stderr: bytes
    """What it wrote, at most `output_bytes`."""
    elapsed_s: float
    """Seconds on the clock from the start of the sandbox to the end of everything inside."""
    limit: str = ""
    """What ran out, in words; empty if nothing did."""
    cpu_s: float = 0.0
    """CPU seconds of all processes, as far as they were counted."""
    waited: bool = False
    """Whether it was ended because it did nothing but wait."""


class Watch:
    """The parent's side of one sandbox: feeds it, reads what it writes, counts what it uses, ends it."""

    def __init__(
        self,
        *,
        stdin: IO[bytes],
        outputs: Mapping[str, IO[bytes]],
        data: bytes,
        limits: Limits,
        group: ControlGroup | None,
        on_idle: Callable[[], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        """Take the ends of the pipes: the standard input and the `data` for it; `stdout`, `stderr`, bwrap's `status`.

        See `run_sandboxed` for the others.
        """
        self._limits = limits
        self._group = group
        self._on_idle = on_idle
        self._cancel = cancel
        self._selector = selectors.DefaultSelector()
        self._stdin = stdin
        self._unsent = memoryview(data)
        self._outputs = {name: bytearray() for name in outputs}
        for name, file in outputs.items():
            self._selector.register(file, selectors.EVENT_READ, name)
        os.set_blocking(self._stdin.fileno(), False)
        self._selector.register(self._stdin, selectors.EVENT_WRITE, "stdin")
        self._init: int | None = None
        """Descriptor of the first process inside; all others end with it, and it ends after them."""
        self._tree: ProcessTree | None = None
        self._stopped: Kind | None = None
        self._limit = ""
        self._exit_code: int | None = None
        self._ending = False
        self._cpu_s = self._idle_s = 0.0
        self._started = self._looked = time.perf_counter()
        self._deadline = self._started + SETUP_TIMEOUT_S
        self._next_look = self._started + LOOK_S

    def result(self) -> SandboxResult:
        """Wait until everything inside has ended and all that it wrote is read. Raises SandboxError."""
        try:
            while self._selector.get_map():
                next_event = min(self._deadline, self._next_look)
                for key, _ in self._selector.select(max(0.0, next_event - time.perf_counter())):
                    self._serve(key)
                now = time.perf_counter()
                if now >= self._next_look:
                    self._look(now)
                if now >= self._deadline:
                    self._be_late()
        finally:
            self._selector.close()
            if self._init is not None:
                os.close(self._init)
        stdout, stderr = bytes(self._outputs["stdout"]), bytes(self._outputs["stderr"])
        if self._exit_code is None:
            reason = visible(stderr.decode(errors="replace").strip()[-500:])
            raise SandboxError(f"bwrap: {reason or 'ended without a word'}")
        self._count_group()
        kind = self._stopped or _kind(self._exit_code)
        if kind == "timeout" and not self._limit:
            self._limit = f"{self._limits.cpu_s:g} CPU seconds"
        return SandboxResult(
            kind,
            self._exit_code if kind in ("finished", "killed") else None,
            stdout,
            stderr,
            time.perf_counter() - self._started,
            self._limit,
            self._cpu_s,
            self._idle_s > self._limits.idle_s,
        )

    def _look(self, now: float) -> None:
        """See what the processes inside use, and end them if it is too much."""
        if self._cancel is not None and self._cancel.is_set():
            raise SandboxCancelled("the run was given up")
        if self._tree is not None and self._tree.stands() and not self._ending:
            usage = self._tree.usage(self._limits.memory_mib << 20)
            before, self._cpu_s = self._cpu_s, self._group.cpu_s() if self._group else usage.cpu_s
            if usage.waits:
                # If this thread had to wait for a core itself, nobody knows what was in between.
                passed = min(now - self._looked, 2 * LOOK_S)
                self._wait(max(0.0, passed - (self._cpu_s - before)))
            if self._cpu_s > self._limits.cpu_s:
                self._stop("timeout", f"{self._limits.cpu_s:g} CPU seconds")
            elif usage.memory > self._limits.memory_mib << 20 and not (self._group and self._group.bounds_memory):
                self._stop("memory_limit", f"{self._limits.memory_mib} MiB of memory")
        self._looked = now
        # Looking at many processes takes its time; it must not become the greater part of it.
        self._next_look = now + max(LOOK_S, 10 * (time.perf_counter() - now))

    def _wait(self, seconds: float) -> None:
        """Count seconds in which nothing inside wanted to run."""
        self._idle_s += seconds
        if self._idle_s > GRACE_S and self._on_idle is not None:
            self._on_idle()
            self._on_idle = None
        if self._idle_s > self._limits.idle_s:
            self._stop("timeout", f"{self._limits.idle_s:g} s of waiting")

    def _count_group(self) -> None:
        """Take in what the control group counted to the end."""
        if self._group is None:
            return
        self._cpu_s = self._group.cpu_s()
        if self._stopped is None and self._group.memory_ran_out():
            self._stopped, self._limit = "memory_limit", f"{self._limits.memory_mib} MiB of memory"
        if self._stopped is None and self._cpu_s > self._limits.cpu_s:
            self._stopped, self._limit = "timeout", f"{self._limits.cpu_s:g} CPU seconds"

    def _serve(self, key: selectors.SelectorKey) -> None:
        """Do what one descriptor is ready for."""
        if key.data == "init":
            self._selector.unregister(key.fileobj)
        elif key.data == "stdin":
            if not self._stdin.closed:  # By what was served just before.
                self._write()
        elif chunk := os.read(key.fd, 1 << 16):
            self._take(key.data, chunk)
        else:
            self._selector.unregister(key.fileobj)

    def _write(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._unsent = self._unsent[os.write(self._stdin.fileno(), self._unsent[: 1 << 16]) :]
            if self._unsent:
                return
        self._close_stdin()

    def _close_stdin(self) -> None:
        if not self._stdin.closed:
            self._selector.unregister(self._stdin)
            self._stdin.close()

    def _take(self, name: str, chunk: bytes) -> None:
        buffer = self._outputs[name]
        if name == "status":
            buffer += chunk
            *lines, rest = bytes(buffer).split(b"\n")
            buffer[:] = rest
            for line in lines:
                self._report(json.loads(line))
            return
        room = self._limits.output_bytes - len(buffer)
        buffer += chunk[:room]
        if len(chunk) > room:
            self._stop("output_limit", f"{self._limits.output_bytes} bytes of output")

    def _report(self, report: Mapping[str, int]) -> None:
        """Take in what bwrap says; nothing inside has its descriptor."""
        if "child-pid" in report:
            self._started = time.perf_counter()
            self._deadline = self._started + self._limits.wall_s
            with contextlib.suppress(ProcessLookupError):  # Setting up failed at once; bwrap says why.
                self._init = os.pidfd_open(report["child-pid"])
                self._tree = ProcessTree(report["child-pid"], self._group)
                self._selector.register(self._init, selectors.EVENT_READ, "init")
        if "exit-code" in report:
            self._exit_code = report["exit-code"]
            self._end()

    def _be_late(self) -> None:
        if self._ending or self._init is None:
            raise SandboxError(f"bwrap neither started nor ended within {SETUP_TIMEOUT_S:g} s")
        self._stop("timeout", f"{self._limits.wall_s:g} s on the clock")

    def _stop(self, kind: Kind, limit: str) -> None:
        if not self._ending:
            self._stopped, self._limit = kind, limit
            self._end()

    def _end(self) -> None:
        """Kill all that is left inside."""
        self._ending = True
        self._deadline = time.perf_counter() + SETUP_TIMEOUT_S
        self._close_stdin()
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, signal.SIGKILL)


def _kind(exit_code: int) -> Kind:
    if exit_code == 128 + signal.SIGXCPU:
        return "timeout"
    return "killed" if exit_code > 128 else "finished"
