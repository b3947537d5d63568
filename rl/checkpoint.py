"""Checkpoints: written beside their place, then renamed into it, so that a killed run leaves whole ones only.

    checkpoints/step_N/   config.json, model.safetensors, tokenizer ...   the model in Hugging Face layout
                          optimizer/rank_R.safetensors                    fp32 weights and Adam moments of rank R
                          state.json                                      step, seeds, data position, shape of the run,
                                                                          size and SHA-256 of every file

There is no state of random generators to save: every draw of a run is seeded by (seed, step).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.model.digests import STATE, Sums, damage, file_sums, read_state, sealed_state, step_of, way_out

__all__ = [
    "STATE",
    "CheckpointError",
    "Writing",
    "check_whole",
    "checkpoint_folder",
    "find_checkpoint",
    "list_checkpoints",
    "read_state",
    "real_folder",
    "set_later_aside",
    "step_folders",
    "sync_to_disk",
    "write_checkpoint",
]


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the ones before it are untouched."""


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a finished step lies."""
    return run / "checkpoints" / f"step_{step}"


def step_folders(run: Path) -> list[tuple[int, Path]]:
    """Folders of checkpoints of a run, oldest first: whole ones, and those that something has damaged since."""
    folders = [folder for folder in (run / "checkpoints").glob("step_*") if folder.is_dir()]
    return sorted((step, folder) for folder in folders if (step := step_of(folder)) is not None)


def list_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Checkpoints of a run as (step, folder), oldest first; what their files hold is not looked at."""
    return [(step, folder) for step, folder in step_folders(run) if (folder / STATE).is_file()]


def real_folder(path: str) -> Path:
    """The folder that `resume=PATH` names, behind all links; those in a circle, or an odd name, lead to no folder."""
    return Path(os.path.realpath(path.replace("\0", "")))


def find_checkpoint(path: str) -> tuple[Path, Path]:
    """Resolve `resume=PATH` to (run folder, checkpoint folder); PATH is a run, or one of its checkpoints.

    Raises:
        InputError: there is no checkpoint.
    """
    folder = real_folder(path)  # a link to a checkpoint stands in a folder that is no run
    if (folder / STATE).is_file() or (step_of(folder) is not None and (folder / "config.json").is_file()):
        return folder.parent.parent, folder
    found = step_folders(folder)
    if not found:
        raise InputError(f"resume: {path} holds no checkpoint; give the folder of a run, or of one of its checkpoints")
    return folder, found[-1][1]


def check_whole(checkpoint: Path, field: str, words: Callable[[Path], str], *, optimizer: bool = True) -> None:
    """Read all files of a checkpoint and hold them against what was written.

    Args:
        checkpoint: its folder.
        field: full name of the field that names it, for the message.
        words: how another checkpoint is asked for on the command line.
        optimizer: whether the optimizer's state is needed too.

    Raises:
        InputError: a file is damaged; it is named, and the newest older checkpoint that is whole.
    """
    if (found := damage(checkpoint, optimizer=optimizer)) is not None:
        otherwise = "restore the file from a copy, or start a new run"
        raise InputError(f"{field}: {found}; {way_out(checkpoint, words, otherwise, optimizer=optimizer)}")


def sync_to_disk(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Writing:
    """A checkpoint that all ranks write; each calls all of this, in this order."""

    run: Path
    """Folder of the run."""
    step: int
    """The finished step."""
    rank: int = 0
    """This process; rank 0 does what is done once."""
    gather: Callable[[str], list[str]] = lambda own: [own]
    """Gives the texts of all ranks, and so waits for them."""

    @property
    def scratch(self) -> Path:
        """Where it is until it is whole."""
        return self.run / "checkpoints" / f".step_{self.step}.partial"

    def everywhere(self, part: Callable[[], None]) -> int:
        """Do a part on all ranks; gives their number.

        Raises:
            CheckpointError: on all ranks, if one of them could not; what was begun is removed.
        """
        failures = self.gather(_attempt(part))
        if lost := [failure for failure in failures if failure]:
            if self.rank == 0:
                shutil.rmtree(self.scratch, ignore_errors=True)
            raise CheckpointError(_lost(self.run, self.step, lost[0]))
        return len(failures)

    def begin(self) -> None:
        """Make an empty folder for it."""
        self.everywhere(lambda: _begin(self.scratch) if self.rank == 0 else None)

    def write(self, files: Callable[[Path], None]) -> int:
        """Let every rank write its files into the folder; gives the number of ranks."""
        return self.everywhere(lambda: files(self.scratch))

    def finish(self, state: Mapping[str, Any], keep: int, world: int) -> Path:
        """Flush and sum what `world` ranks have written, give it its name, and drop the oldest beyond `keep`."""
        final, sums = checkpoint_folder(self.run, self.step), dict[str, dict[str, Any]]()
        own = _files(self.scratch)[self.rank :: world]
        self.everywhere(lambda: sums.update(_flushed_sums(self.scratch, own)))
        for share in self.gather(json.dumps(sums)):
            sums |= json.loads(share)
        self.everywhere(lambda: _finish(self.scratch, final, state, sums, self.run, keep) if self.rank == 0 else None)
        return final


def write_checkpoint(
    run: Path,
    step: int,
    state: Mapping[str, Any],
    write_files: Callable[[Path], None],
    keep: int,
    *,
    rank: int = 0,
    gather: Callable[[str], list[str]] = lambda own: [own],
) -> Path:
    """Write a checkpoint so that it appears whole or not at all, then drop the oldest beyond `keep` (0 keeps all).

    Called by every rank at once. Where one of them cannot write, what was begun is removed and all of them raise.

    Args:
        run: folder of the run.
        step: the finished step.
        state: what goes into `state.json`.
        write_files: writes this rank's files into the folder it is given.
        keep: checkpoints to keep.
        rank: this process; rank 0 does what is done once.
        gather: gives the texts of all ranks, and so waits for them.

    Raises:
        CheckpointError: the disk is full or refuses; the checkpoints that were there are whole.
    """
    writing = Writing(run, step, rank, gather)
    writing.begin()
    return writing.finish(state, keep, writing.write(write_files))


def _flushed_sums(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Sizes and sums of files, taken while they are flushed to the disk: that is the slower of the two."""
    with ThreadPoolExecutor(1) as pool:
        flushed = [pool.submit(sync_to_disk, folder / name) for name in names]
        sums = file_sums(folder, names)
        for one in flushed:
            one.result()
    return sums


def _files(folder: Path) -> Sequence[str]:
    """Paths of all files inside a folder, in one order for all ranks."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _begin(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)


def _finish(scratch: Path, final: Path, state: Mapping[str, Any], sums: Sums, run: Path, keep: int) -> None:
    """Flush what all ranks have written, give it its name, and drop old ones."""
    unseen = set(_files(scratch)) - sums.keys()  # a shared file system may show other ranks a file late
    (scratch / STATE).write_text(sealed_state(state, {**sums, **file_sums(scratch, sorted(unseen))}))
    for file in scratch.rglob("*"):
        sync_to_disk(file)
    sync_to_disk(scratch)
    if final.exists():
        _discard(final)
    scratch.rename(final)
    sync_to_disk(final.parent)
    for _, old in list_checkpoints(run)[:-keep] if keep else []:
        _discard(old)


def _attempt(part: Callable[[], None]) -> str:
    """Do it; gives what the disk has against it, empty if nothing."""
    from safetensors import SafetensorError

    try:
        part()
    except OSError as error:
        return error.strerror or str(error)
    except SafetensorError as error:  # what its writer makes of an error of the disk
        return " ".join(str(error).split())
    return ""


def _lost(run: Path, step: int, reason: str) -> str:
    before = list_checkpoints(run)
    newest = f"that of step {before[-1][0]} is whole" if before else "there is none before it"
    return (
        f"the checkpoint of step {step} cannot be written ({reason}); {newest}; "
        f"make room or mend the disk, then resume={run} goes on"
    )


def set_later_aside(run: Path, step: int) -> list[Path]:
    """Rename the checkpoints of steps after this one, which will be done again, to `step_N.superseded`."""
    moved = []
    for _, folder in [one for one in step_folders(run) if one[0] > step]:
        aside = folder.with_name(f"{folder.name}.superseded")
        shutil.rmtree(aside, ignore_errors=True)
        moved.append(folder.rename(aside))
    return moved


def _discard(checkpoint: Path) -> None:
    """Delete a checkpoint; it stops counting as one before its first file goes."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.discarded")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)
