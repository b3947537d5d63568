"""Starting a sandbox by way of the small process in `launcher_process.py`, one for all threads of this process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from evolpo.rewards.code.launcher_process import MAX_DESCRIPTORS, MAX_REQUEST
from evolpo.rewards.ending import at_end

__all__ = ["launch"]


def launch(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    limits: Sequence[tuple[int, int, int]],
    group: int | None,
) -> int:
    """Start a program in a session of its own, which is killed when this process ends.

    Args:
        command: its path and arguments.
        environment: all of its environment.
        descriptors: what it gets as its descriptors 0, 1, 2 and so on; it gets no others.
        limits: (resource, soft, hard) as `resource.setrlimit` takes them.
        group: descriptor of the folder of the control group that it is born in; None: that of this process.

    Returns a descriptor of the process (`pidfd_open(2)`) for the caller to close. Raises OSError.
    """
    request = {
        "command": list(command),
        "environment": dict(environment),
        "descriptors": len(descriptors),
        "limits": list(limits),
        "group": group is not None,
    }
    given = [*descriptors, *([] if group is None else [group])]
    message = json.dumps(request).encode()
    if len(message) > MAX_REQUEST or len(given) > MAX_DESCRIPTORS:
        raise ValueError(f"{len(message)} bytes and {len(given)} descriptors are too much for one sandbox")
    with _lock:
        try:
            return _launcher().start(message, given)
        except OSError:  # Somebody killed it.
            _close()
            return _launcher().start(message, given)


class _Launcher:
    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = Path(__file__).with_name("launcher_process.py")
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(program), str(other.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                # No more than Python may need: it outlives whoever is killed with all that has his mark in its
                # environment, to end the rest.
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
                start_new_session=True,
            )

    def start(self, message: bytes, given: Sequence[int]) -> int:
        socket.send_fds(self._socket, [message], given)
        answer, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        if not answer or not descriptors:
            raise ConnectionResetError("the process that starts sandboxes has ended")
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]

    def close(self) -> None:
        """Let it end all that it started, and itself."""
        self._socket.close()
        self._process.wait()


_lock = threading.Lock()
_current: _Launcher | None = None
_exiting = False


def _launcher() -> _Launcher:
    global _current
    if _exiting:  # Threads that are left would start another one.
        raise ProcessLookupError("this process comes to its end")
    if _current is None:
        _current = _Launcher()
    return _current


def _close() -> None:
    global _current
    if _current is not None:
        _current.close()
        _current = None


def _forget() -> None:
    """In a process that was forked: the launcher is the parent's, and the lock may have been held there."""
    global _current, _lock
    _current, _lock = None, threading.Lock()


def _exit() -> None:
    global _exiting
    _exiting = True
    _close()


os.register_at_fork(after_in_child=_forget)
at_end(_exit)
