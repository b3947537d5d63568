"""A small process that starts sandboxes for a large one.

A process must join its control group, take its limits and be tied to its parent between fork and exec. The large
process has threads and gigabytes, so that it may not fork by itself; three programs in a row, each starting the next,
would take as long as a short test case. And whoever moves into a control group waits some milliseconds for the
kernel, while a process that is born there (`CLONE_INTO_CGROUP`, Linux 5.7) does not.

Arguments: the descriptor of a socket, the id of the process at its other end. A request is a JSON object and the
descriptors that the new process gets; the answer is one byte and a descriptor of the process (`pidfd_open(2)`).

It ends with the process that it works for, and leaves nothing behind. Whatever loses its parent becomes its child
(`PR_SET_CHILD_SUBREAPER`): bubblewrap ties the first process inside to the one outside a moment after it was made, so
that one killed in this moment leaves the other waiting for ever.
"""

# Plain calls of the system: `pathlib` takes longer to load than a sandbox to start.
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
from typing import Any, NoReturn

MAX_REQUEST = 1 << 18
MAX_DESCRIPTORS = 64

_LIBC = ctypes.PyDLL(None)  # Calls keep the interpreter's lock, which the child of a fork would find taken.
_LIBC.syscall.restype = ctypes.c_long
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SYS_CLONE3 = 435  # On every architecture.
_CLONE_PIDFD = 0x1000
_CLONE_INTO_CGROUP = 0x200000000
_ABOVE = 256
"""Descriptors are moved above this before they get the numbers that they shall have."""


class _CloneArgs(ctypes.Structure):
    """`struct clone_args` of clone(2)."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal"),
            *("stack", "stack_size", "tls", "set_tid", "set_tid_size", "cgroup"),
        )
    )


def serve(channel: socket.socket, owner: int) -> None:
    """Start what is asked for until the owner ends."""
    running: dict[int, int] = {}
    poll = select.poll()
    for descriptor in (channel.fileno(), owner):
        poll.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == owner:
                return
            if descriptor in running:
                poll.unregister(descriptor)
                _reap(descriptor, running)
                continue
            request, given, _, _ = socket.recv_fds(channel, MAX_REQUEST, MAX_DESCRIPTORS)
            if not request:
                return
            pid, process = _start(json.loads(request), given)
            for one in given:
                os.close(one)
            running[process] = pid
            poll.register(process, select.POLLIN)
            socket.send_fds(channel, [b"."], [process])


def _reap(process: int, running: dict[int, int]) -> None:
    """Take leave of a process that has ended."""
    how = os.waitid(os.P_PIDFD, process, os.WEXITED)
    del running[process]
    os.close(process)
    if how is not None and how.si_code != os.CLD_EXITED:
        for orphan in _children().difference(running.values()):
            _end(orphan)


def end_all() -> None:
    """End all that was started, and what that leaves behind."""
    while found := _children():
        for pid in found:
            _end(pid)


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _children() -> set[int]:
    own, found = os.getpid(), set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == own:
                    found.add(int(name))
    return found


def _start(request: dict[str, Any], descriptors: list[int]) -> tuple[int, int]:
    """Id and descriptor of a new process."""
    for given in descriptors:
        os.set_inheritable(given, False)
    group = descriptors[-1] if request["group"] else None
    parent = os.getpid()
    pid, process = _clone(group)
    if pid < 0:  # No such call, or a group that may not be entered in this way.
        pid = os.fork()
        process = os.pidfd_open(pid) if pid else -1
        joins = group
    else:
        joins = None
    if pid == 0:
        try:
            _become(request, descriptors, joins, parent)
        except Exception as error:  # noqa: BLE001 - nothing of this process may go on in its copy
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(1)
    return pid, process


def _clone(group: int | None) -> tuple[int, int]:
    """A fork into a control group; its id is 0 in the child and below 0 where it failed."""
    process = ctypes.c_int(-1)
    arguments = _CloneArgs(
        flags=_CLONE_PIDFD | (0 if group is None else _CLONE_INTO_CGROUP),
        pidfd=ctypes.addressof(process),
        exit_signal=signal.SIGCHLD,
        cgroup=group or 0,
    )
    size = ctypes.c_size_t(ctypes.sizeof(arguments))
    pid = int(_LIBC.syscall(ctypes.c_long(_SYS_CLONE3), ctypes.byref(arguments), size))
    return pid, process.value


def _become(request: dict[str, Any], descriptors: list[int], group: int | None, parent: int) -> NoReturn:
    """Turn this process, a fresh copy, into the program that was asked for."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    if group is not None:
        joining = os.open("cgroup.procs", os.O_WRONLY, dir_fd=group)
        os.write(joining, b"0")
    moved = [os.dup2(given, _ABOVE + index, inheritable=False) for index, given in enumerate(descriptors)]
    for number in range(request["descriptors"]):  # Without that of the control group.
        os.dup2(moved[number], number)
    os.setsid()  # Ctrl-C is the business of whoever waits.
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # If memory runs out, let the kernel take the sandbox, not the trainer.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # By Python.
        signal.signal(ignored, signal.SIG_DFL)
    for kind, *limits in request["limits"]:
        resource.setrlimit(kind, limits)
    os.execve(request["command"][0], request["command"], request["environment"])


def main() -> None:
    """Serve the process that the arguments name."""
    descriptor, owner = (int(word) for word in sys.argv[1:3])
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        watched = os.pidfd_open(owner)
    except ProcessLookupError:
        return
    if os.getppid() != owner:  # The id is somebody else's by now.
        return
    with socket.socket(fileno=descriptor) as channel:
        channel.set_inheritable(False)
        try:
            serve(channel, watched)
        finally:
            end_all()


if __name__ == "__main__":
    main()
