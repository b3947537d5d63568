"""What the files of a checkpoint were when written: `state.json` has the size and SHA-256 of each, and its own.

SHA-256 reads 1.5 GB/s where the processor has instructions for it, four times as fast as a disk writes, and
`sha256sum` checks a file by hand. Checkpoints without sums are read as far as their files hold together.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evolpo.model.files import DamagedError, read_header, read_object, read_text
from evolpo.model.lora import ADAPTER, CONFIG, is_adapter

STATE = "state.json"
FILES, SUM = "files", "sha256"
"""Entries of `state.json`: sizes and sums of all other files, and the sum of all the other entries."""
OPTIMIZER = "optimizer"
"""Subfolder of a checkpoint; whoever loads the model reads every safetensors file beside its config.json."""
THREADS = min(os.cpu_count() or 1, 8)
"""Files that are summed at once; hashlib lets other threads run."""

Sums = Mapping[str, Mapping[str, Any]]
"""By path inside the folder: `bytes` and `sha256`."""


def file_sum(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with file.open("rb") as opened:
        return {"bytes": os.fstat(opened.fileno()).st_size, SUM: hashlib.file_digest(opened, "sha256").hexdigest()}


def file_sums(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Sizes and sums of some files of a folder, several at once."""
    names = list(names)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: file_sum(folder / name), names), strict=True))


def sealed_state(state: Mapping[str, Any], sums: Sums) -> str:
    """The text of `state.json`: a state, what the files beside it are, and a sum over both."""
    content = json.loads(json.dumps({**state, FILES: dict(sorted(sums.items()))}))  # as it will be read
    return json.dumps({**content, SUM: own_sum(content)}, indent=1)


def read_state(folder: Path, needed: Iterable[str] = ("step",)) -> dict[str, Any]:
    """The state in the `state.json` of a checkpoint.

    Args:
        folder: the checkpoint.
        needed: entries that it must have.

    Raises:
        DamagedError: it is missing, garbled, or not what was written.
    """
    return _state_and_sums(folder, needed)[0]


def _state_and_sums(folder: Path, needed: Iterable[str] = ("step",)) -> tuple[dict[str, Any], Sums | None]:
    file = folder / STATE
    content = read_object(file)
    own = content.pop(SUM, None)
    if (own is None and FILES in content) or (own is not None and own != own_sum(content)):
        raise DamagedError(file, "is not what was written (its checksum differs)")
    sums = content.pop(FILES, None)
    if missing := [name for name in needed if name not in content]:
        raise DamagedError(file, f"is damaged, it has no {' and no '.join(missing)}")
    if "step" in needed and type(content["step"]) is not int:
        raise DamagedError(file, f"is damaged, its step is {content['step']!r}")
    return content, sums


def own_sum(content: Mapping[str, Any]) -> str:
    """SHA-256 of an object of JSON, in whatever order its fields are written."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def damage(folder: Path, *, optimizer: bool = True) -> DamagedError | None:
    """What is wrong with a checkpoint, or a folder with a model; None if it is whole.

    Sizes are looked at before any file is read as a whole. Without sums in `state.json` files must hold together.

    Args:
        folder: the checkpoint.
        optimizer: whether the optimizer's state counts too.
    """
    try:
        plain = step_of(folder) is None and not (folder / STATE).exists()  # a model from elsewhere
        sums = None if plain else _state_and_sums(folder)[1]
        if sums is None:
            _check_structure(folder, optimizer)
        else:
            own = {name: one for name, one in sums.items() if optimizer or not name.startswith(f"{OPTIMIZER}/")}
            _check_sums(folder, own)
    except DamagedError as error:
        return error
    except OSError as error:
        return DamagedError(Path(error.filename or folder), f"cannot be read ({error.strerror})")
    return None


def _check_sums(folder: Path, sums: Sums) -> None:
    for name, known in sums.items():
        file = folder / name
        if not file.is_file():
            raise DamagedError(file, "is missing" if not file.exists() else "is a folder, where a file should be")
        if (size := file.stat().st_size) != known["bytes"]:
            raise DamagedError(file, f"has {size} bytes of {known['bytes']}" if size else "is empty")
    stamps = {(folder / name, (folder / name).stat().st_mtime_ns) for name in sums}
    if stamps <= _seen_whole:
        return
    now = file_sums(folder, sums)
    for name, known in sums.items():
        if now[name] != known:
            raise DamagedError(folder / name, "is not what was written (its checksum differs)")
    _seen_whole.update(stamps)


_seen_whole: set[tuple[Path, int]] = set()
"""Files that this process has read and found whole, with the time of their last change: a run asks several times."""


def _check_structure(folder: Path, optimizer: bool) -> None:
    if is_adapter(folder):
        read_object(folder / CONFIG)
        read_header(folder / ADAPTER)
        return
    read_object(folder / "config.json")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / name).exists():
            read_object(folder / name)
    if (template := folder / "chat_template.jinja").exists():
        read_text(template)
    weights = sorted(folder.glob("*.safetensors"))
    states = sorted((folder / OPTIMIZER).glob("*.safetensors")) if optimizer else [folder]
    for file in (*weights, *(states if optimizer else [])):
        read_header(file)
    if not weights:
        raise DamagedError(folder / "model.safetensors", "is missing")
    if not states:
        raise DamagedError(folder / OPTIMIZER / "rank_0.safetensors", "is missing")


def step_of(folder: Path) -> int | None:
    """The step that a checkpoint's folder is named after; None for another folder."""
    match = re.fullmatch(r"step_(\d+)", folder.name)
    return int(match[1]) if match else None


def way_out(folder: Path, words: Callable[[Path], str], otherwise: str, *, optimizer: bool = True) -> str:
    """What to do without a damaged checkpoint: take the newest older one of its run that is whole.

    Args:
        folder: the damaged one.
        words: how a checkpoint is asked for on the command line.
        otherwise: what to do where no older one is whole.
        optimizer: whether the optimizer's state must be whole too.
    """
    step = step_of(folder)
    siblings = {found: one for one in folder.parent.glob("step_*") if (found := step_of(one)) is not None}
    older = sorted((one for one in siblings if step is not None and one < step), reverse=True)
    for number in older:
        if damage(siblings[number], optimizer=optimizer) is None:
            return f"the checkpoint of step {number} before it is whole: {words(siblings[number])}"
    return f"no older checkpoint of the run is whole; {otherwise}" if step is not None else otherwise
