"""A run's folder: made, described, found again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from evolpo import InputError
from evolpo.model.digests import SUM, file_sum, own_sum
from evolpo.model.files import DamagedError, read_bytes, read_object
from evolpo.rl.logs.files import replacing, write_json

CONFIG = "config.yaml"
LONGEST_NAME = 255
"""Bytes of a file name."""
LONGEST_PATH = 1_000
SHOWN = 80
"""Characters of a name in a message."""
START = "start.json"
"""How a run was started: in which directory, and with which files of groups; and the sums of its configuration."""
_STARTED = {"directory": str, "choices": dict, "config": list}
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
    check_name(name)
    base = writable_folder(output_dir) / name
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in range(1000):
        folder = base / (stamp if attempt == 0 else f"{stamp}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            if base.is_dir():
                continue
            raise _no_folder(base, error) from None
        except OSError as error:
            raise _no_folder(base, error) from None
        return folder
    raise RuntimeError(f"no free run folder under {base}")


def _no_folder(base: Path, error: OSError) -> InputError:
    what = "is a link to nothing" if base.is_symlink() and not base.exists() else f"holds no runs ({error.strerror})"
    return InputError(f"name: {base} {what}; give another name, or another output_dir")


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_config(run: Path) -> dict[str, Any]:
    """What the `config.yaml` of a run says; empty if it has none, or an empty one.

    Raises:
        DamagedError: it is no YAML of fields.
    """
    file = run / CONFIG
    if not file.exists() or (file.is_file() and not file.stat().st_size):
        return {}
    try:
        found = yaml.safe_load(read_bytes(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(file, f"is no YAML ({str(error)[:200] or type(error).__name__})") from None
    if not isinstance(found, dict):
        raise DamagedError(file, "holds no fields")
    return found


def check_name(name: str) -> None:
    """Raise InputError unless the name of a run is that of a folder inside `output_dir`."""
    parts = Path(name).parts
    fits = all(len(part.encode(errors="replace")) <= LONGEST_NAME for part in parts) and len(name) <= LONGEST_PATH
    plain = name.isprintable() and all(part == part.strip() for part in parts)
    if not parts or Path(name).is_absolute() or ".." in parts or not (fits and plain):
        shown = repr(name if len(name) <= SHOWN else f"{name[:SHOWN]}...")
        raise InputError(f"name: {shown} is no name of a folder in output_dir; use letters, digits, _ and -")


def write_config(run: Path, config: Any) -> None:
    """Write the whole configuration of a run beside its results, whole or not at all.

    How the run is gone on with is no part of it.
    """
    changes = {name: type(getattr(config, name))() for name in ("resume", "dry_run") if hasattr(config, name)}
    with replacing(run / CONFIG) as temporary:
        OmegaConf.save(OmegaConf.structured(replace(config, **changes)), temporary)
        if start := read_start(run):  # of a run that goes on; a kill may leave the old configuration or the new one
            old = [file_sum(run / CONFIG)[SUM]] if (run / CONFIG).exists() else []
            _write_sealed(run / START, start | {"config": [*old, file_sum(temporary)[SUM]]})


def write_start(run: Path) -> None:
    """Write how this run was started and what its `config.yaml` is, for `read_start`."""
    from hydra.core.hydra_config import HydraConfig

    known = HydraConfig.initialized()
    choices = HydraConfig.get().runtime.choices if known else {}
    own = {group: choice for group, choice in choices.items() if choice and not group.startswith("hydra/")}
    config = [file_sum(run / CONFIG)[SUM]]
    _write_sealed(run / START, {"directory": str(Path.cwd()), "choices": own, "config": config})


def _write_sealed(file: Path, content: dict[str, Any]) -> None:
    write_json(file, content | {SUM: own_sum(content)})


def read_start(run: Path) -> dict[str, Any]:
    """How a run was started; empty if there is no `start.json`.

    Raises:
        InputError: it is damaged.
    """
    file = run / START
    if not file.exists():
        return {}
    try:
        found = read_object(file)
        own = found.pop(SUM, None)
        if found.keys() - _STARTED or own != own_sum(found):
            raise DamagedError(file, "is not what was written (its checksum differs)")
    except DamagedError as error:
        mend = "delete it, and the run goes on from the directory that you are in"
        raise InputError(f"resume: {error}; restore it from a copy, or {mend}") from None
    return {name: value for name, value in found.items() if isinstance(value, _STARTED[name])}
