"""Runs a command that nobody trusts, in bubblewrap: no network, no files of ours, no more time and memory than given.

Inside there are the system's programs and libraries, read-only, two small writable folders (`/tmp`, the working
directory, and `/dev/shm`), a `/proc` with its own processes and nothing else: no `/etc`, no environment, no other
processes. A system-call filter closes the doors through which an unprivileged process could still get itself new name
spaces, and sockets of every kind. Everything that runs inside dies with the command, whatever it started, and the
command dies with whoever waits for it, however that ends.

Memory and CPU time are those of all processes together: see `usage.py`.

As root, bubblewrap needs no user name space, and each run gets a user id of its own: the kernel counts processes per
user, and never limits those of root. As any other user, bubblewrap makes a user name space, which counts by itself
(Linux 5.14 and newer).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import resource
import secrets
import select
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from evolpo import InputError
from evolpo.rewards.code.launcher import launch
from evolpo.rewards.code.sandbox_process import Limits, SandboxCancelled, SandboxError, SandboxResult, Watch
from evolpo.rewards.code.usage import control_group
from evolpo.rewards.visible import visible

__all__ = [
    "CHANNEL",
    "CODE_FOLDER",
    "Limits",
    "SandboxCancelled",
    "SandboxError",
    "SandboxMissing",
    "SandboxResult",
    "check_sandbox",
    "run_sandboxed",
]

CODE_FOLDER = "/code"
"""Where the files given with a command lie inside, read-only."""
CHANNEL = 3
"""The descriptor for results of a command that has one."""

_PACKAGES = {"bwrap": "bubblewrap", "prlimit": "util-linux", "setpriv": "util-linux"}
_FIRST_UID = 1_900_000_000  # systemd's table of user ids leaves 1,879,048,192 to 2,147,483,647 unused.
_UIDS = 1 << 24
_CLONE_NEWUSER = 0x10000000
# New name spaces, other processes' memory, and kernel interfaces with a history of holes; memfd_create and the queues
# of System V because what they hold counts as nobody's memory; sockets of every family.
_BLOCKED_CALLS = (
    *("unshare", "setns", "mount", "umount2", "pivot_root", "move_mount", "open_tree", "fsopen", "fsmount"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "memfd_create", "memfd_secret"),
    *("shmget", "msgget", "semget", "socket"),
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "keyctl", "add_key", "request_key"),
)
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",  # Or each thread would reserve 64 MiB of the address space.
    "PYTHONHASHSEED": "0",  # Or the order of a set of strings, hence a result, would change from run to run.
}


class SandboxMissing(InputError):  # noqa: N818 - the state of a machine, as in its message
    """This machine cannot run the sandbox; the message says what to install or to allow."""


def run_sandboxed(
    command: Sequence[str],
    *,
    stdin: bytes = b"",
    files: Mapping[str, bytes] | None = None,
    readonly: Sequence[Path] = (),
    limits: Limits | None = None,
    proc: bool = True,
    channel: bool = False,
    on_idle: Callable[[], None] | None = None,
    cancel: threading.Event | None = None,
) -> SandboxResult:
    """Run a command to its end, or to the end of what it may use; may be called from several threads at once.

    Args:
        command: program and arguments; it is looked up in the system's folders.
        stdin: what it can read from its standard input.
        files: name -> content of files that it finds in `CODE_FOLDER`.
        readonly: further files and folders of this machine that it may read, at the same paths.
        limits: what it may use; the defaults of `Limits` if None.
        proc: whether it sees a `/proc`, which `/dev/stdin` needs; in it, a process inside may read and write the memory
            and the open files of the others. Left out where a machine forbids it.
        channel: whether the standard output of the result is what it writes to descriptor `CHANNEL`; what it prints
            then goes to its standard error.
        on_idle: called once when the command turns out to wait rather than to work, so that its core may do other
            work; never called for most commands.
        cancel: kills everything inside as soon as it is set.

    Raises:
        SandboxMissing: bubblewrap or a tool of it is not installed, or this machine forbids it.
        SandboxCancelled: `cancel` was set.
        SandboxError: the sandbox could not be set up, or did not end.
    """
    check_sandbox()
    proc = proc and _proc_can_be_mounted(_tool("bwrap"))
    return _run(command, stdin, files or {}, readonly, limits or Limits(), proc, channel, on_idle, cancel)


def check_sandbox() -> None:
    """Raise SandboxMissing, with the mend, if commands cannot be sandboxed here; a success is remembered."""
    for tool in _PACKAGES:
        _tool(tool)
    _try_sandbox(_tool("bwrap"))


def _tool(name: str) -> str:
    """Path of a program. Raises SandboxMissing if there is none."""
    path = shutil.which(name)
    if path is None:
        package = _PACKAGES[name]
        raise SandboxMissing(
            f"sandbox: no {name} on the PATH, and no code is run without it; apt-get install {package}"
        )
    return path


@functools.cache
def _try_sandbox(bwrap: str) -> None:
    """Raise SandboxMissing if not even `true` runs; cached by the program that was tried."""
    try:
        result = _run(["true"], b"", {}, (), Limits())
    except SandboxError as error:
        raise SandboxMissing(
            f"sandbox: {bwrap} does not work here ({error}); allow unprivileged user namespaces "
            "(sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, "
            "user.max_user_namespaces), or as root give the container CAP_SYS_ADMIN"
        ) from error
    if result.exit_code != 0:
        reason = visible(result.stderr.decode(errors="replace").strip()) or result.kind
        raise SandboxMissing(f"sandbox: {bwrap} starts, but nothing runs in it: {reason}")


@functools.cache
def _proc_can_be_mounted(bwrap: str) -> bool:
    """Whether there may be a new `/proc`; containers that hide parts of their own forbid it."""
    del bwrap
    try:
        return _run(["true"], b"", {}, (), Limits(), proc=True).exit_code == 0
    except SandboxError:
        return False


def _run(
    command: Sequence[str],
    stdin: bytes,
    files: Mapping[str, bytes],
    readonly: Sequence[Path],
    limits: Limits,
    proc: bool = False,
    channel: bool = False,
    on_idle: Callable[[], None] | None = None,
    cancel: threading.Event | None = None,
) -> SandboxResult:
    with contextlib.ExitStack() as stack:
        group = control_group(limits.memory_mib << 20)
        if group is not None:
            stack.callback(group.close)
        inputs, outputs = _pipe(stack), {name: _pipe(stack) for name in ("stdout", "stderr", "status")}
        rules = stack.enter_context(_memory_file(_system_call_filter()))
        data = {name: stack.enter_context(_memory_file(content)) for name, content in files.items()}
        stdout, stderr = outputs["stdout"][1], outputs["stderr"][1]
        given = [inputs[0], *([stderr, stderr, stdout] if channel else [stdout, stderr])]
        status = len(given)
        numbers = {name: status + 2 + index for index, name in enumerate(data)}
        given += [outputs["status"][1], rules, *data.values()]
        process = launch(
            [
                *(_tool("bwrap"), "--json-status-fd", str(status), "--seccomp", str(status + 1)),
                *_isolation(readonly, numbers, limits, proc),
                "--",
                *_wrappers(limits),
                *command,
            ],
            environment=_ENVIRONMENT,
            descriptors=[file.fileno() for file in given],
            limits=_resource_limits(limits),
            group=group.descriptor if group else None,
        )
        stack.callback(_end, process)
        for end in (inputs[0], *(write for _, write in outputs.values())):
            end.close()  # Or the other end would never see that it is closed.
        return Watch(
            stdin=inputs[1],
            outputs={name: read for name, (read, _) in outputs.items()},
            data=stdin,
            limits=limits,
            group=group,
            on_idle=on_idle,
            cancel=cancel,
        ).result()


def _end(process: int) -> None:
    """Kill a process, wait for its end and close its descriptor."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    ended = select.poll()
    ended.register(process, select.POLLIN)
    ended.poll()
    os.close(process)


def _pipe(stack: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Read and write end; whoever has one may open it anew, as programs do by the name `/dev/stdin`."""
    read, write = os.pipe()
    os.fchmod(read, 0o666)
    return (
        stack.enter_context(os.fdopen(read, "rb", buffering=0)),
        stack.enter_context(os.fdopen(write, "wb", buffering=0)),
    )


def _isolation(readonly: Sequence[Path], files: Mapping[str, int], limits: Limits, proc: bool) -> Iterator[str]:
    """The arguments of bwrap that say what is inside."""
    yield from ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
    yield from ("--die-with-parent", "--new-session", "--hostname", "sandbox")
    if os.geteuid() == 0:
        # What setpriv needs to become somebody else; it loses both by doing so.
        yield from ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    else:
        yield from ("--unshare-user", "--uid", "65534", "--gid", "65534")
    yield from ("--ro-bind", "/usr", "/usr")
    for path in map(Path, ("/bin", "/sbin", "/lib", "/lib32", "/lib64")):
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))
    yield from ("--perms", "1777", "--size", str(limits.files_mib << 20), "--tmpfs", "/tmp", "--chdir", "/tmp")
    for path in readonly:
        for parent in reversed(path.parents[:-1]):
            # Or bwrap would copy the mode of a folder such as /root, and the path would be closed inside, too.
            yield from ("--perms", "0755", "--dir", str(parent))
        yield from ("--ro-bind", str(path), str(path))
    yield from ("--perms", "0755", "--dir", CODE_FOLDER)
    for name, descriptor in files.items():
        yield from ("--perms", "0444", "--ro-bind-data", str(descriptor), f"{CODE_FOLDER}/{name}")
    if proc:
        yield from ("--proc", "/proc")
    yield from ("--dev", "/dev")
    yield from ("--perms", "1777", "--size", str(limits.files_mib << 20), "--tmpfs", "/dev/shm")
    yield from ("--remount-ro", "/dev")
    yield from ("--remount-ro", "/")


def _resource_limits(limits: Limits) -> list[tuple[int, int, int]]:
    """What each process is held to by itself, in case that nobody looks."""
    memory = limits.memory_mib << 20
    cpu_s = math.ceil(limits.cpu_s) + 1
    equal = {
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_AS: memory + (limits.reserve_mib << 20),
        resource.RLIMIT_FSIZE: limits.files_mib << 20,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    if os.geteuid() == 0:
        equal[resource.RLIMIT_NPROC] = limits.processes
    # At the first a signal that says why, at the second one that cannot be caught.
    return [(resource.RLIMIT_CPU, cpu_s, cpu_s + 1), *((kind, most, most) for kind, most in equal.items())]


def _wrappers(limits: Limits) -> Iterator[str]:
    """The program that runs inside and starts the command, for what must not be done outside."""
    if os.geteuid() == 0:
        uid = str(_FIRST_UID + secrets.randbelow(_UIDS))
        yield from ("setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--")
    else:  # Outside, all processes of the user would count.
        yield from ("prlimit", f"--nproc={limits.processes}", "--")


def _memory_file(content: bytes) -> IO[bytes]:
    file = open(os.memfd_create("sandbox"), "w+b")  # noqa: PTH123, SIM115 - a descriptor, no path; the caller closes it
    file.write(content)
    file.seek(0)
    return file


@functools.cache
def _system_call_filter() -> bytes:
    """The filter as a program for the kernel. Raises SandboxMissing if libseccomp is not installed."""
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise SandboxMissing(f"sandbox: {error}; apt-get install libseccomp2, pip install pyseccomp") from error
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _BLOCKED_CALLS:
        # A call that this libseccomp does not know is not one this filter can name; older kernels lack it as well.
        with contextlib.suppress(ValueError, OSError):
            rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
    # Event loops wake themselves up through a pair of sockets; nothing else can be reached by one.
    rules.add_rule(pyseccomp.ERRNO(errno.EPERM), "socketpair", pyseccomp.Arg(0, pyseccomp.NE, int(socket.AF_UNIX)))
    new_user = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_NEWUSER, _CLONE_NEWUSER)
    rules.add_rule(pyseccomp.ERRNO(errno.EPERM), "clone", new_user)
    # A filter cannot see the flags of clone3, which lie in memory; "not implemented" makes libraries fall back.
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    with open(os.memfd_create("filter"), "w+b") as file:  # noqa: PTH123 - a descriptor, no path
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
