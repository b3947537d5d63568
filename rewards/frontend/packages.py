"""Libraries that pages ask for, as pinned npm packages on this machine's disk: `data/packages.txt` lists them.

`python -m evolpo.rewards.frontend.packages` takes them from the npm registry; set-up does so once. Pages never load
anything from elsewhere: what is not on the disk is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_LIST = Path(__file__).parent / "data" / "packages.txt"
_AT_ONCE = 4
_TIMEOUT_S = 300
# What a browser loads; sources, maps, types and old formats of fonts stay behind.
_KEPT = {".js", ".mjs", ".cjs", ".css", ".json", ".woff2", ".png", ".gif", ".ttf", ".wasm", ".txt", ".md", ""}
_LEFT_OUT = ("/test/", "/tests/", "/docs/", "/examples/fonts/", "/draco/", "/rhino3dm/", "/basis/", "/locale/")
_MAX_BYTES = 5_000_000


@dataclass(frozen=True, slots=True)
class Package:
    """One version of an npm package in a folder."""

    name: str
    version: tuple[int, ...]
    folder: Path


def package_folder() -> Path:
    """Where the listed packages lie: beside the Python environment, outside of any checkout."""
    return Path(sys.prefix) / "share" / "evolpo" / "npm"


def listed() -> dict[str, str]:
    """`name@version` -> integrity (sha512, as npm writes it) of every package of the list."""
    return dict(line.split() for line in _LIST.read_text(encoding="utf-8").splitlines())


@cache
def find_packages(folders: tuple[Path, ...]) -> dict[str, tuple[Package, ...]]:
    """Name -> versions, newest first, of all packages in the folders: of the list, `node_modules`, or one's own."""
    found: dict[str, list[Package]] = {}
    for folder in folders:
        for file in sorted([*folder.glob("[!@]*/package.json"), *folder.glob("@*/*/package.json")]):
            about = json.loads(file.read_text(encoding="utf-8"))
            version = tuple(map(int, re.findall(r"\d+", about["version"].partition("-")[0])))
            found.setdefault(about["name"], []).append(Package(about["name"], version, file.parent))
    return {name: tuple(sorted(all_, key=lambda one: one.version, reverse=True)) for name, all_ in found.items()}


def install(folder: Path) -> int:
    """Take the packages that are not there yet from the registry that npm is set to; returns how many.

    Raises:
        OSError: npm is missing or fails, or a package is not the listed one.
    """
    wanted = [(spec, digest) for spec, digest in listed().items() if not (folder / spec / "package.json").exists()]
    if not wanted:
        return 0
    if shutil.which("npm") is None:
        raise OSError("npm is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new") as work, ThreadPoolExecutor(_AT_ONCE) as pool:
        parts = [wanted[index::_AT_ONCE] for index in range(_AT_ONCE)]
        list(pool.map(lambda part: _take(part, folder, Path(work)), [part for part in parts if part]))
    return len(wanted)


def _take(wanted: Sequence[tuple[str, str]], folder: Path, work: Path) -> None:
    packed = tempfile.mkdtemp(dir=work)
    cache_folder = tempfile.mkdtemp(dir=work)
    command = ["npm", "pack", "--json", "--ignore-scripts", "--loglevel=error", f"--cache={cache_folder}"]
    try:
        done = subprocess.run(
            [*command, *(spec for spec, _ in wanted)], cwd=packed, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"npm is not done after {_TIMEOUT_S} s") from error
    if done.returncode:
        raise OSError(next(iter(done.stderr.splitlines()), "npm failed"))
    answer = json.loads(done.stdout)
    for one in answer if isinstance(answer, list) else answer.values():
        spec = f"{one['name']}@{one['version']}"
        _unpack(Path(packed) / one["filename"], dict(wanted)[spec], folder / spec, work)


def _unpack(archive: Path, integrity: str, target: Path, folder: Path) -> None:
    """What a browser loads of a package, written beside its place and renamed."""
    digest = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != integrity:
        raise OSError(f"{target.name}: the archive is not the listed one")
    beside = Path(tempfile.mkdtemp(dir=folder))
    with tarfile.open(archive) as tar:
        for member in _kept(tar):
            member.name = member.name.partition("/")[2]
            tar.extract(member, beside, filter="data")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside.chmod(0o755)
    if target.exists():
        shutil.rmtree(target)
    beside.rename(target)
    archive.unlink()


def _kept(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    members = [member for member in tar.getmembers() if member.isfile()]
    names = {member.name for member in members}
    for member in members:
        path = Path(member.name)
        doubled = path.suffix == ".ttf" and str(path.with_suffix(".woff2")) in names
        legal = path.name.lower().startswith(("licen", "copying", "notice"))
        text = path.suffix in (".txt", ".md", "")
        if path.suffix not in _KEPT or doubled or (text and not legal) or member.size > _MAX_BYTES:
            continue
        if not any(part in member.name for part in _LEFT_OUT):
            yield member


def main() -> None:
    """Install the list and say in one line what became of it; never an error: pages without libraries work."""
    folder = package_folder()
    try:
        taken = install(folder)
    except OSError as error:
        print(f"no libraries for pages ({error}); {sys.executable} -m {__spec__.name} tries again")
    else:
        print(f"{len(listed())} libraries for pages in {folder}, {taken} of them new")


if __name__ == "__main__":
    main()
