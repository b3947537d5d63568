"""What a running sandbox has used, over all its processes together: CPU time, memory, and whether it works or waits.

Two ways to know. A control group of the sandbox's own (cgroups v2) counts CPU time exactly, and, where its memory
controller may be used, holds the memory below its limit by itself. Without one, the processes are looked at many times
a second: memory is what they hold at that moment, shared pages once, temporary files included; CPU time is that of
living processes and of those that were waited for. Two gaps remain then: what a process uses between two looks, and the
CPU time of children that end between two looks and are not waited for.
"""

# Plain calls of the system: this runs many times a second beside programs that are timed.
# ruff: noqa: PTH116, PTH123, PTH208

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ControlGroup", "ProcessTree", "Usage", "accounting", "control_group"]

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_FOLDERS = ("tmp", "dev/shm")
_INODE_BYTES = 1024
"""Memory of the kernel for a file in a temporary folder, however small: inode and name."""
_NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox has used, and what it does."""

    cpu_s: float
    """CPU seconds of all its processes and threads."""
    memory: int
    """Bytes of memory that its processes and temporary files hold now; a rough sum where that is far from a limit."""
    waits: bool
    """Whether nothing in it runs, wants to run, or reads a disk."""


@dataclass(frozen=True, slots=True)
class _Process:
    """A process as `/proc` shows it."""

    pid: int
    state: str
    own_s: float
    """CPU seconds of its threads."""
    waited_s: float
    """CPU seconds of the children that it has waited for."""
    threads: int
    start: int
    address_space: int
    resident: int


class ProcessTree:
    """The processes of a sandbox, looked at from outside."""

    def __init__(self, init: int, group: ControlGroup | None) -> None:
        """Take the id of the sandbox's first process, and its control group, which lists its processes, if any."""
        self._root = f"/proc/{init}/root"
        self._space = _space(init)
        self._group = group
        self._helpers = 1 if group is None else 2  # The first process, and bwrap outside.
        self._seen: dict[tuple[int, int], float] = {}
        self._cpu_s = 0.0

    def stands(self) -> bool:
        """Whether the sandbox has been set up: before, its root is ours."""
        try:
            return not os.path.samestat(os.stat(self._root), os.stat("/"))
        except OSError:
            return False

    def usage(self, memory_limit: int) -> Usage:
        """Look at all processes. Memory is worked out exactly only where a cheap bound is above the limit, in bytes."""
        processes = list(self._processes())
        return Usage(self._cpu_seconds(processes), self._memory(processes, memory_limit), self._waits(processes))

    def _processes(self) -> Iterator[_Process]:
        for pid in _processes_in(self._space) if self._group is None else self._group.processes():
            if (process := _process(pid, _read(f"/proc/{pid}/stat"))) is not None:
                yield process

    def _cpu_seconds(self, processes: list[_Process]) -> float:
        for process in processes:
            self._seen[process.pid, process.start] = process.own_s
        # Each of the two misses what the other has: short-lived children, and children that nobody waited for.
        counted = sum(process.own_s + process.waited_s for process in processes)
        self._cpu_s = max(self._cpu_s, counted, sum(self._seen.values()))
        return self._cpu_s

    def _memory(self, processes: list[_Process], limit: int) -> int:
        files = sum(map(self._folder_bytes, _FOLDERS))
        if files + sum(process.address_space for process in processes) <= limit:
            return files + sum(process.resident for process in processes)
        shared: dict[bytes, int] = {}
        total = files
        for process in processes:
            # Pages in common with a parent count once, in parts; those of mapped files are the files' or the disk's.
            total += _field_kib(_read(f"/proc/{process.pid}/smaps_rollup"), b"Pss_Anon:") << 10
            shared.update(_shared_mappings(_read(f"/proc/{process.pid}/maps")))
        return total + sum(shared.values())

    def _folder_bytes(self, folder: str) -> int:
        try:
            room = os.statvfs(f"{self._root}/{folder}")
        except OSError:
            return 0
        return (room.f_blocks - room.f_bfree) * room.f_frsize + (room.f_files - room.f_ffree) * _INODE_BYTES

    def _waits(self, processes: list[_Process]) -> bool:
        states = [process.state for process in processes if process.threads == 1]
        for process in processes:
            if process.threads > 1:
                states += _thread_states(process.pid)
        if "R" in states:
            return False
        # Waiting for a disk looks like waiting for a child after vfork; one process alone can only do the first.
        return not ("D" in states and len(states) <= 1 + self._helpers)


def _thread_states(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):  # It has ended.
        for name in os.listdir(f"/proc/{pid}/task"):
            if (thread := _process(pid, _read(f"/proc/{pid}/task/{name}/stat"))) is not None:
                yield thread.state


def _read(path: str) -> bytes:
    """A file in `/proc`; empty if its process has ended."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError:
        return b""


def _space(pid: int) -> int | None:
    """Which process-id name space a process is in, as it is for life; None if it has ended or is not ours to see."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


_LOCK = threading.Lock()
_spaces: dict[int, int | None] = {}
"""Name spaces of the processes that were there at the last look; an id that is gone may come back as somebody else."""


def _processes_in(space: int | None) -> list[int]:
    """The ids of the processes in a name space."""
    global _spaces
    with _LOCK:
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
        _spaces = {pid: _spaces[pid] if pid in _spaces else _space(pid) for pid in pids}
        return [pid for pid, found in _spaces.items() if found == space]


def _process(pid: int, stat: bytes) -> _Process | None:
    """A process from its line in `/proc` (proc(5)); None if it has ended."""
    fields = stat[stat.rfind(b")") + 2 :].split()  # Its name may hold anything, blanks and brackets too.
    if len(fields) < 22:
        return None
    own, waited = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    threads, start, space, resident = int(fields[17]), int(fields[19]), int(fields[20]), int(fields[21])
    page = os.sysconf("SC_PAGE_SIZE")
    return _Process(pid, fields[0].decode(), own * _TICK_S, waited * _TICK_S, threads, start, space, resident * page)


def _field_kib(text: bytes, name: bytes) -> int:
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def _shared_mappings(maps: bytes) -> Iterator[tuple[bytes, int]]:
    """Inode -> bytes of shared memory without a file; all, as pages that left a process may still be there."""
    for line in maps.splitlines():
        if line.endswith(b"/dev/zero (deleted)"):
            span, _, _, _, inode, *_ = line.split()
            first, _, last = span.partition(b"-")
            yield inode, int(last, 16) - int(first, 16)


class ControlGroup:
    """A control group (cgroups v2) for one sandbox."""

    def __init__(self, parent: Path, memory_limit: int) -> None:
        """Make a group below `parent`; `memory_limit` in bytes. Raises OSError if that is not allowed."""
        self._path = parent / f"evolpo-{os.getpid()}-{next(_NUMBERS)}"
        self._path.mkdir()
        self.bounds_memory = (self._path / "memory.max").exists()
        """Whether the kernel holds the memory of the group below the limit."""
        if self.bounds_memory:
            (self._path / "memory.max").write_text(str(memory_limit))
            with contextlib.suppress(OSError):  # A kernel without swap.
                (self._path / "memory.swap.max").write_text("0")
        self.descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        """Of its folder, open until `close`."""

    def processes(self) -> list[int]:
        """The ids of the processes in the group."""
        return [int(pid) for pid in _read(str(self._path / "cgroup.procs")).split()]

    @property
    def entrance(self) -> str:
        """The file that takes the id of a process which is to join."""
        return str(self._path / "cgroup.procs")

    def cpu_s(self) -> float:
        """CPU seconds of all processes that ever were in the group."""
        return _key(self._path / "cpu.stat", "usage_usec") / 1e6

    def memory_ran_out(self) -> bool:
        """Whether the kernel had to end a process of the group because its memory was at the limit."""
        return self.bounds_memory and _key(self._path / "memory.events", "oom_kill") > 0

    def close(self) -> None:
        """End what is left in the group, and remove it."""
        os.close(self.descriptor)
        for _ in range(200):  # What was killed leaves a moment later. If a group stays, the next process removes it.
            try:
                self._path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                with contextlib.suppress(OSError):
                    (self._path / "cgroup.kill").write_text("1")
                time.sleep(0.001)
            else:
                return


def _key(path: Path, key: str) -> int:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def accounting() -> str:
    """How memory and CPU time of a sandbox are counted here, for people."""
    group = control_group(1 << 30)
    if group is None:
        return "memory and CPU time: watching the process tree"
    with contextlib.closing(group):
        if group.bounds_memory:
            return "memory and CPU time: cgroups v2"
        return "CPU time: cgroups v2; memory: watching the process tree"


def control_group(memory_limit: int) -> ControlGroup | None:
    """A new control group, or None where this process may not make any; `memory_limit` in bytes."""
    parent = _parent()
    try:
        return None if parent is None else ControlGroup(parent, memory_limit)
    except OSError:
        return None


@functools.cache
def _parent() -> Path | None:
    """The control group below which this process may make groups, one with a memory controller if there is any."""
    usable = [folder for folder in _own_groups() if _may_make_groups(folder)]
    if not usable:
        return None
    chosen = next((folder for folder in usable if _gives_memory(folder)), usable[0])
    _remove_left_behind(chosen)
    return chosen


def _own_groups() -> list[Path]:
    """The control group of this process and all above it that can be seen, from the nearest on."""
    own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        root, point = place.split()[3:5]
        if kind.startswith("cgroup2 ") and Path(own).is_relative_to(root):
            top = Path(point)
            nearest = top / Path(own).relative_to(root)
            return [folder for folder in (nearest, *nearest.parents) if folder.is_relative_to(top)]
    return []


def _gives_memory(folder: Path) -> bool:
    return "memory" in (folder / "cgroup.subtree_control").read_text().split()


def _may_make_groups(folder: Path) -> bool:
    """Whether a group can be made there and a process be put into it; tried out."""
    try:
        group = ControlGroup(folder, 1 << 26)
    except OSError:
        return False
    with contextlib.closing(group):
        joining = subprocess.run(
            ["sh", "-c", 'echo $$ >"$1"', "sh", group.entrance], stderr=subprocess.DEVNULL, check=False
        )
        return joining.returncode == 0


def _remove_left_behind(folder: Path) -> None:
    """Remove groups of processes that were killed before they could do so."""
    for path in folder.glob("evolpo-*-*"):
        if not Path("/proc", path.name.split("-")[1]).exists():
            with contextlib.suppress(OSError):
                path.rmdir()
