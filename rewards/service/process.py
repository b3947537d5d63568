"""One worker process as its parent sees it: started, spoken to, and ended with all that it has started."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from mmap import mmap
from multiprocessing.connection import Pipe
from pathlib import Path

from evolpo.rewards.service.calls import Load, Outcome, Surroundings, Target

START_TIMEOUT_S = 120.0
"""Seconds a worker may take to start and to import a plugin; not part of the plugin's own time."""
MAX_SWEEPS = 20
"""Most looks for processes that a worker has left behind; the last one finds none."""
MARK = "EVOLPO_REWARD_WORKER"
"""Environment variable by which the processes that a worker started are found, wherever they went."""
_PROGRESS = struct.Struct("=qd")


class WorkerProcess:
    """A worker process and the connection to it."""

    def __init__(self, coroutines: bool) -> None:
        """Start it, for coroutines that run together or for functions that run one after the other."""
        self.connection, child = Pipe()
        progress = os.memfd_create("reward-progress")
        os.ftruncate(progress, _PROGRESS.size)
        self.progress = mmap(progress, _PROGRESS.size)
        _PROGRESS.pack_into(self.progress, 0, -1, 0.0)
        self.mark = uuid.uuid4().hex
        arguments = f"{child.fileno()}, {progress}, {os.getpid()}, {coroutines}"
        module = f"{__name__.rpartition('.')[0]}.worker_process"
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                f"import sys; sys.path[:] = {sys.path!r}; from {module} import serve; serve({arguments})",
            ],
            pass_fds=(child.fileno(), progress),
            stdin=subprocess.DEVNULL,
            env={**os.environ, MARK: self.mark},
            start_new_session=True,  # Ctrl-C is the parent's business.
        )
        child.close()
        os.close(progress)
        self.loaded: set[Target] = set()
        self._entered: Surroundings | None = None

    def holds_older(self, target: Target) -> bool:
        """Whether the process has imported another version of the target's module."""
        return any(one.is_older(target) for one in self.loaded)

    def load(self, target: Target) -> Outcome | None:
        """Import the target, unless that is done; an outcome if it failed. Raises EOFError or OSError on a crash."""
        environment = {**os.environ, MARK: self.mark}
        surroundings = Surroundings(list(sys.path), str(Path.cwd()), environment)
        if target in self.loaded and self._entered == surroundings:
            return None
        self.connection.send_bytes(pickle.dumps(Load(target, surroundings)))
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.connection.poll(max(0.0, deadline - time.monotonic())):
            outcome = pickle.loads(self.connection.recv_bytes())
            if not isinstance(outcome, Outcome):
                continue  # A sign of life.
            if outcome.kind != "returned":
                return outcome
            self.loaded.add(target)
            self._entered = surroundings
            return None
        self.kill()
        return Outcome("timeout", error=f"{target.module} was not imported within {START_TIMEOUT_S:g} s")

    def running(self) -> tuple[int, float]:
        """Number of the call that was begun last, and when on the monotonic clock."""
        number, began = _PROGRESS.unpack_from(self.progress, 0)
        return number, began

    def death(self) -> str:
        """Why the process died, after it closed its end of the connection."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        self.kill()
        code = self._process.returncode
        reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"the worker process died: {reason}"

    @property
    def alive(self) -> bool:
        """Whether the process can take another call."""
        return self._process.returncode is None

    def kill(self) -> None:
        """End the process and everything it started, at once."""
        self.end()
        sweep({self.mark})

    def end(self) -> None:
        """End the process and those of its children that stayed in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def sweep(marks: set[str]) -> None:
    """End all processes that were started by workers with these marks, wherever they have gone."""
    wanted = [f"{MARK}={mark}".encode() for mark in marks]
    for _ in range(MAX_SWEEPS if marks else 0):
        found = _processes_with(wanted)
        for process in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.01)  # One that starts a program at this moment shows no environment.


def _processes_with(wanted: Sequence[bytes]) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            process = int(folder.name)
            environment = (folder / "environ").read_bytes()
            if any(one in environment for one in wanted):
                found.append(process)
    return found
