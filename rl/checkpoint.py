"""Checkpoints: written beside their place, then renamed into it, so that a killed run leaves whole ones only.

    checkpoints/step_N/   config.json, model.safetensors, tokenizer ...   the model in Hugging Face layout
                          optimizer/rank_R.safetensors                    fp32 weights and Adam moments of rank R
                          state.json                                      step, seeds, data position, shape of the run

There is no state of random generators to save: every draw of a run is seeded by (seed, step).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evolpo import InputError

STATE = "state.json"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the ones before it are untouched."""


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a finished step lies."""
    return run / "checkpoints" / f"step_{step}"


def list_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Whole checkpoints of a run as (step, folder), oldest first."""
    found = []
    for folder in (run / "checkpoints").glob("step_*"):
        match = re.fullmatch(r"step_(\d+)", folder.name)
        if match and (folder / STATE).is_file():
            found.append((int(match.group(1)), folder))
    return sorted(found)


def find_checkpoint(path: str) -> tuple[Path, Path]:
    """Resolve `resume=PATH` to (run folder, checkpoint folder); PATH is a run, or one of its checkpoints.

    Raises:
        InputError: there is no whole checkpoint.
    """
    folder = Path(path).resolve()  # a link to a checkpoint stands in a folder that is no run
    if (folder / STATE).is_file():
        return folder.parent.parent, folder
    found = list_checkpoints(folder)
    if not found:
        raise InputError(f"resume: {path} holds no checkpoint; give the folder of a run, or of one of its checkpoints")
    return folder, found[-1][1]


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The `state.json` of a checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text())
    return state


def sync_to_disk(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    final = checkpoint_folder(run, step)
    scratch = final.with_name(f".{final.name}.partial")
    parts = (
        lambda: _begin(scratch) if rank == 0 else None,
        lambda: write_files(scratch),
        lambda: _finish(scratch, final, state, run, keep) if rank == 0 else None,
    )
    for part in parts:
        failures = [failure for failure in gather(_attempt(part)) if failure]
        if failures:
            if rank == 0:
                shutil.rmtree(scratch, ignore_errors=True)
            raise CheckpointError(_lost(run, step, failures[0]))
    return final


def _begin(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)


def _finish(scratch: Path, final: Path, state: Mapping[str, Any], run: Path, keep: int) -> None:
    """Flush what all ranks have written, give it its name, and drop old ones."""
    (scratch / STATE).write_text(json.dumps(dict(state), indent=1))
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
    for _, folder in [one for one in list_checkpoints(run) if one[0] > step]:
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
