"""Runs a command that nobody trusts, in bubblewrap: no network, no files of ours, no more time and memory than given.

Inside there are the system's programs and libraries, read-only, one small writable folder (`/tmp`, the working
directory) and nothing else: no `/proc`, no `/etc`, no environment, no other processes. A system-call filter closes the
doors through which an unprivileged process could still get itself new name spaces. Everything that runs inside dies
with the command, whatever it started.

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
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from evolpo import InputError
from evolpo.rewards.code.sandbox_process import Limits, SandboxError, SandboxResult, Watch

__all__ = [
    "CODE_FOLDER",
    "Limits",
    "SandboxError",
    "SandboxMissing",
    "SandboxResult",
    "check_sandbox",
    "run_sandboxed",
]

CODE_FOLDER = "/code"
"""Where the files given with a command lie inside, read-only."""

_PACKAGES = {"bwrap": "bubblewrap", "prlimit": "util-linux", "setpriv": "util-linux", "choom": "util-linux"}
_FIRST_UID = 1_900_000_000  # systemd's table of user ids leaves 1,879,048,192 to 2,147,483,647 unused.
_UIDS = 1 << 24
_CLONE_NEWUSER = 0x10000000
# New name spaces, other processes' memory, and kernel interfaces with a history of holes; memfd_create because such
# files count as nobody's memory.
_BLOCKED_CALLS = (
    *("unshare", "setns", "mount", "umount2", "pivot_root", "move_mount", "open_tree", "fsopen", "fsmount"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "memfd_create", "memfd_secret", "shmget"),
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
) -> SandboxResult:
    """Run a command to its end, or to the end of what it may use; may be called from several threads at once.

    Args:
        command: program and arguments; it is looked up in the system's folders.
        stdin: what it can read from its standard input.
        files: name -> content of files that it finds in `CODE_FOLDER`.
        readonly: further files and folders of this machine that it may read, at the same paths.
        limits: what it may use; the defaults of `Limits` if None.

    Raises:
        SandboxMissing: bubblewrap or a tool of it is not installed, or this machine forbids it.
        SandboxError: the sandbox could not be set up, or did not end.
    """
    check_sandbox()
    return _run(command, stdin, files or {}, readonly, limits or Limits())


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
        reason = result.stderr.decode(errors="replace").strip() or result.kind
        raise SandboxMissing(f"sandbox: {bwrap} starts, but nothing runs in it: {reason}")


def _run(
    command: Sequence[str], stdin: bytes, files: Mapping[str, bytes], readonly: Sequence[Path], limits: Limits
) -> SandboxResult:
    status_read, status_write = os.pipe()
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(os.fdopen(status_read, "rb", buffering=0))
        status_end = stack.enter_context(os.fdopen(status_write, "wb", buffering=0))
        rules = stack.enter_context(_memory_file(_system_call_filter()))
        data = {name: stack.enter_context(_memory_file(content)).fileno() for name, content in files.items()}
        process = stack.enter_context(
            subprocess.Popen(
                [
                    # If memory runs out, let the kernel take the sandbox rather than the trainer.
                    *(_tool("choom"), "-n", "1000", "--", _tool("bwrap")),
                    *("--json-status-fd", str(status_write), "--seccomp", str(rules.fileno())),
                    *_isolation(readonly, data, limits),
                    "--",
                    *_wrappers(limits),
                    *command,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_ENVIRONMENT,
                pass_fds=(status_write, rules.fileno(), *data.values()),
                start_new_session=True,  # Ctrl-C is the parent's business.
                bufsize=0,
            )
        )
        stack.callback(process.kill)
        status_end.close()  # Or its end would never be seen here.
        return Watch(process, status, stdin, limits).result()


def _isolation(readonly: Sequence[Path], files: Mapping[str, int], limits: Limits) -> Iterator[str]:
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
    yield from ("--dev", "/dev", "--remount-ro", "/dev")
    yield from ("--remount-ro", "/")


def _wrappers(limits: Limits) -> Iterator[str]:
    """Programs that run inside, each starting the next: they set the limits and give up the last rights."""
    memory = limits.memory_mib << 20
    cpu_s = math.ceil(limits.cpu_s)
    yield "prlimit"
    yield f"--cpu={cpu_s}:{cpu_s + 1}"  # At the first a signal that says why, at the second one that cannot be caught.
    yield f"--data={memory}"
    yield f"--as={memory + (limits.reserve_mib << 20)}"
    yield from (f"--nproc={limits.processes}", f"--fsize={limits.files_mib << 20}", "--nofile=256", "--core=0")
    yield "--"
    if os.geteuid() == 0:
        uid = str(_FIRST_UID + secrets.randbelow(_UIDS))
        yield from ("setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--")


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
    new_user = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_NEWUSER, _CLONE_NEWUSER)
    rules.add_rule(pyseccomp.ERRNO(errno.EPERM), "clone", new_user)
    # A filter cannot see the flags of clone3, which lie in memory; "not implemented" makes libraries fall back.
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    with open(os.memfd_create("filter"), "w+b") as file:  # noqa: PTH123 - a descriptor, no path
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
