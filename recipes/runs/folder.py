"""A run's folder: made, described, found again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from evolpo import InputError

CONFIG = "config.yaml"
APEXEVAL = "apexeval.json"
"""What ApexEval found, in the folder of its run: the best checkpoint and the row of each."""


def writable_folder(path: str) -> Path:
    """Make the folder of all runs.

    Raises:
        InputError: it cannot be written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a name of its own: others may be looking too
            pass
    except OSError as error:
        raise InputError(f"output_dir: {path} cannot be written ({error.strerror}); give another folder") from None
    return folder


def new_run_folder(output_dir: str, name: str) -> Path:
    """Make `output_dir/name/TIME`; two runs never share one."""
    base = writable_folder(output_dir) / name
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in range(1000):
        folder = base / (stamp if attempt == 0 else f"{stamp}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise RuntimeError(f"no free run folder under {base}")


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_config(run: Path, config: Any) -> None:
    """Write the whole configuration of a run beside its results."""
    OmegaConf.save(OmegaConf.structured(config), run / CONFIG)
