"""One running sandbox, seen from outside: what it may use, and feeding, reading and ending it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Literal

SETUP_TIMEOUT_S = 60.0
"""Seconds until the sandbox must stand, and in which it must be gone after its end; not part of the command's time."""

Kind = Literal["finished", "timeout", "output_limit", "killed"]


class SandboxError(RuntimeError):
    """The sandbox failed around the command; this says nothing about the command."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a command may use."""

    cpu_s: float = 4.0
    """CPU seconds of one process, rounded up to whole seconds."""
    wall_s: float = 16.0
    """Seconds on the clock, from the moment at which the sandbox starts, until everything inside is killed."""
    memory_mib: int = 512
    """Memory of one process in MiB."""
    reserve_mib: int = 0
    """Address space in MiB that the interpreter reserves beyond that without using it."""
    processes: int = 32
    """Processes and threads at one time."""
    files_mib: int = 64
    """Total size in MiB of the files it writes to `/tmp`."""
    output_bytes: int = 1 << 20
    """Bytes on the standard output, and as many on the standard error."""


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """What became of a command."""

    kind: Kind
    """`finished` by itself; `timeout`: out of CPU or clock time; `output_limit`: wrote too much; `killed` by a signal.
    A command may pose as `killed` or as out of CPU time through its exit code."""
    exit_code: int | None
    """As a shell gives it, 128 + signal for a killed command; None if it was ended for the time or the output."""
    stdout: bytes
    """What it wrote, at most `output_bytes`."""
    stderr: bytes
    """What it wrote, at most `output_bytes`."""
    elapsed_s: float
    """Seconds on the clock from the start of the sandbox to the end of everything inside."""


class Watch:
    """The parent's side of one sandbox: feeds it, reads what it writes, ends it."""

    def __init__(self, process: subprocess.Popen[bytes], status: IO[bytes], stdin: bytes, limits: Limits) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._limits = limits
        self._selector = selectors.DefaultSelector()
        self._stdin = process.stdin
        self._unsent = memoryview(stdin)
        self._outputs = {"stdout": bytearray(), "stderr": bytearray(), "status": bytearray()}
        for name, file in (("stdout", process.stdout), ("stderr", process.stderr), ("status", status)):
            self._selector.register(file, selectors.EVENT_READ, name)
        os.set_blocking(self._stdin.fileno(), False)
        self._selector.register(self._stdin, selectors.EVENT_WRITE, "stdin")
        self._init: int | None = None
        """Descriptor of the first process inside; all others end with it, and it ends after them."""
        self._stopped: Kind | None = None
        self._exit_code: int | None = None
        self._ending = False
        self._started = time.perf_counter()
        self._deadline = self._started + SETUP_TIMEOUT_S

    def result(self) -> SandboxResult:
        """Wait until everything inside has ended and all that it wrote is read. Raises SandboxError."""
        try:
            while self._selector.get_map():
                for key, _ in self._selector.select(max(0.0, self._deadline - time.perf_counter())):
                    self._serve(key)
                if time.perf_counter() >= self._deadline:
                    self._be_late()
        finally:
            self._selector.close()
            if self._init is not None:
                os.close(self._init)
        stdout, stderr = bytes(self._outputs["stdout"]), bytes(self._outputs["stderr"])
        if self._exit_code is None:
            raise SandboxError(f"bwrap: {stderr.decode(errors='replace').strip()[-500:] or 'ended without a word'}")
        kind = self._stopped or _kind(self._exit_code)
        code = self._exit_code if kind in ("finished", "killed") else None
        return SandboxResult(kind, code, stdout, stderr, time.perf_counter() - self._started)

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
            self._stop("output_limit")

    def _report(self, report: Mapping[str, int]) -> None:
        """Take in what bwrap says; nothing inside has its descriptor."""
        if "child-pid" in report:
            self._started = time.perf_counter()
            self._deadline = self._started + self._limits.wall_s
            with contextlib.suppress(ProcessLookupError):  # Setting up failed at once; bwrap says why.
                self._init = os.pidfd_open(report["child-pid"])
                self._selector.register(self._init, selectors.EVENT_READ, "init")
        if "exit-code" in report:
            self._exit_code = report["exit-code"]
            self._end()

    def _be_late(self) -> None:
        if self._ending or self._init is None:
            raise SandboxError(f"bwrap neither started nor ended within {SETUP_TIMEOUT_S:g} s")
        self._stop("timeout")

    def _stop(self, kind: Kind) -> None:
        if not self._ending:
            self._stopped = kind
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
