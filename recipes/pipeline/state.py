"""Where a pipeline stands, on disk: `pipeline.json`, and a lock that only one process at a time holds."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from evolpo import InputError
from evolpo.model.files import DamagedError, read_object
from evolpo.rl.logs.files import write_json

STATE = "pipeline.json"
LOCK = ".pipeline.lock"


@dataclass(frozen=True)
class StageRecord:
    """How far a stage is. Paths are relative to the pipeline's folder."""

    status: str
    """running, failed or finished; running without a process at work is interrupted."""
    arguments: list[str]
    """What its command was given, without where it writes."""
    earlier: list[str]
    """Names of run folders that were there before this one began."""
    run: str = ""
    """Folder of its run, once finished."""
    model: str = ""
    """Folder of the model it leaves, once finished; empty if it leaves none."""
    seconds: float = 0.0
    """Wall clock; an attempt that was killed together with the pipeline is not in it."""


def read_records(folder: Path) -> dict[str, StageRecord]:
    """Records of a pipeline by name of the stage; none if it has not begun."""
    path = folder / STATE
    found = read_object(path) if path.exists() else {}
    try:
        return {name: StageRecord(**record) for name, record in found.items()}
    except TypeError:
        raise DamagedError(path, "holds no records of stages; restore it from a copy") from None


def write_records(folder: Path, records: Mapping[str, StageRecord]) -> None:
    """Write `pipeline.json`, atomically."""
    write_json(folder / STATE, {name: asdict(one) for name, one in records.items()})


def run_names(folder: Path) -> list[str]:
    """Names of the run folders of a stage, oldest first."""
    return sorted(one.name for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the pipeline's lock; yields its file descriptor.

    A stage's process inherits it, so that a stage that outlives a killed pipeline is not run a second time beside it.

    Raises:
        InputError: another process holds it.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"resume: {folder} is being worked on by another process; wait for its end") from None
        yield descriptor
    finally:
        os.close(descriptor)
