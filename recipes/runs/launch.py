"""From a checked configuration to running processes."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from evolpo.recipes.arguments.words import words_again

GRACE_S = 10.0
"""Seconds that processes have after one of them has failed: they may fail likewise, and say so."""
SAVING_S = 600.0
"""Seconds that they have after SIGTERM; who sent it kills earlier if that is too long."""


def local_processes(processes: int) -> int:
    """How many processes to start: as many as asked for, or one a GPU, or one."""
    if processes:
        return processes
    import torch

    return max(torch.cuda.device_count(), 1)


def launched(command: str, processes: int = 1) -> bool:
    """Run this command in processes of its own and wait for them; False if this process is to do the work.

    Several devices get a process each. A job of `--multirun` gets its own too: a process holds one engine in its life.
    Under torchrun or the deepspeed launcher (RANK is set) nothing is started.

    Raises:
        SystemExit: the processes failed, with their exit code.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if "RANK" in os.environ:
        return False
    count = local_processes(processes)
    job = HydraConfig.get()
    sweeping = job.mode == RunMode.MULTIRUN
    if count == 1 and not sweeping:
        return False
    words = words_again(job.overrides.task if sweeping else sys.argv[1:])
    # Where hydra began: a run that is resumed has gone to another directory since.
    code = run_processes([sys.executable, "-P", "-m", "evolpo.recipes.cli", command, *words], count, job.runtime.cwd)
    if code:
        raise SystemExit(code)
    return True


def run_processes(arguments: Sequence[str], count: int, directory: str) -> int:
    """Run `count` processes of one command as the ranks of a run; returns 0, or the exit code of the one that failed.

    SIGTERM is handed on. When one fails the others, which would wait for it for ever, are killed after `GRACE_S`.
    Ctrl-C reaches all of them; they may finish a checkpoint, and a second one ends that too.

    Args:
        arguments: program and arguments.
        count: of processes; a single one is no rank of anything.
        directory: in which they work.
    """
    with _handing_on() as children:
        for environment in rank_environments(count):
            children.append(subprocess.Popen(arguments, env=environment, cwd=directory))
        try:
            return _wait(children)
        except KeyboardInterrupt:
            return _wait_interrupted(children)
        finally:
            for child in children:
                child.kill()
                child.wait()


def rank_environments(count: int) -> Iterator[Mapping[str, str]]:
    """The environment of each rank on this machine, as torch.distributed reads it."""
    if count == 1:
        yield dict(os.environ)
        return
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads_each(count)))}
    for rank in range(count):
        yield {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}


def free_port() -> int:
    """A port for ranks to meet at: below those that connections are given, or one could take it before rank 0 does."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def _handing_on() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list of processes that get the SIGTERM that this one gets meanwhile."""
    children: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield children
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all, not for ever once one has failed; the exit code of the first failure, 0 without one."""
    code, deadline = 0, float("inf")
    while time.monotonic() < deadline:
        codes = [child.poll() for child in children]
        if not code and (failed := [one for one in codes if one]):
            code = failed[0] if failed[0] > 0 else 128 - failed[0]
            deadline = time.monotonic() + (SAVING_S if code == 128 + signal.SIGTERM else GRACE_S)
        if None not in codes:
            break
        time.sleep(0.05)
    return code


def _wait_interrupted(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for processes that Ctrl-C ends; those that have not heard it alone, or hang, are told by SIGTERM."""
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and all(child.poll() is None for child in children):
        time.sleep(0.05)
    for child in children:
        child.terminate()
    return _wait(children)


def threads_each(processes: int) -> int:
    """CPU threads for each of several processes on this machine."""
    return max((os.cpu_count() or 1) // processes, 1)


def worker_environment(worker: int) -> dict[str, str]:
    """The environment of one of several single processes on this machine: of several GPUs each gets one, in turn."""
    import torch

    environment = dict(os.environ)
    if (count := torch.cuda.device_count()) > 1:
        names = environment.get("CUDA_VISIBLE_DEVICES", "") or ",".join(map(str, range(count)))
        environment["CUDA_VISIBLE_DEVICES"] = names.split(",")[worker % count]
    return environment
