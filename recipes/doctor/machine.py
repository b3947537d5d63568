"""The machine itself: processor, memory, disk, card and driver, compilers."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sysconfig
from pathlib import Path

import psutil
import torch

from evolpo.model import has_fast_bf16
from evolpo.recipes.doctor.finding import BAD, CARE, GOOD, Finding
from evolpo.rollout.card import GIB

DRIVERS = {12: 525, 13: 580}
"""Oldest driver by major version of CUDA (NVIDIA's CUDA Toolkit release notes, minor version compatibility)."""
LEAST_MEMORY, EASY_MEMORY = 4.0, 12.0
"""GiB free below which nothing trains, and from which `make train` has room."""
LEAST_DISK, EASY_DISK = 2.0, 20.0
"""GiB free for a small run's checkpoints, and for those of a model of 1 B parameters."""
LEAST_SHARED = 0.5
"""GiB of /dev/shm that NCCL and several ranks want."""


def processor() -> Finding:
    """Cores, and which precision `auto` takes."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    flags = next((set(line.split()) for line in _lines("/proc/cpuinfo") if line.startswith("flags")), set())
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    there = [name for name in wanted if name in flags]
    cores = len(psutil.Process().cpu_affinity())
    found = f"{model}, {cores} cores, {', '.join(there) or 'no AVX2'}"
    figures = {"model": model, "cores": cores, "features": there}
    if "avx2" not in flags:
        return Finding(BAD, found, "vLLM's CPU build needs AVX2", "take another machine, or a GPU", figures)
    if torch.cuda.is_available() or has_fast_bf16():
        return Finding(GOOD, found, "precision auto is bf16", figures=figures)
    return Finding(
        GOOD, found, "precision auto is fp32: bf16 products would be emulated, ten times slower", "", figures
    )


def memory() -> Finding:
    """Memory that is free, and the limit of a container."""
    there = psutil.virtual_memory()
    limit = _container_limit()
    free = min(there.available, limit if limit is not None else there.available) / GIB
    found = f"{free:.1f} GiB free of {there.total / GIB:.1f}" + (
        f", container limit {limit / GIB:.1f}" if limit else ""
    )
    figures = {"free_gib": round(free, 1), "total_gib": round(there.total / GIB, 1)}
    if free < LEAST_MEMORY:
        return Finding(BAD, found, "too little to train and sample even a small model", "end other programs", figures)
    if free < EASY_MEMORY:
        todo = "evolpo train says before it loads what does not fit"
        return Finding(CARE, found, "room for models of some 100 M parameters", todo, figures)
    return Finding(GOOD, found, "room for models of 100 M parameters and more", figures=figures)


def disk() -> Finding:
    """Room where runs are written."""
    free = shutil.disk_usage(Path.cwd()).free / GIB
    found, figures = f"{free:.0f} GiB free in this folder", {"free_gib": round(free)}
    if free < LEAST_DISK:
        return Finding(BAD, found, "checkpoints will not fit", "make room, or set output_dir", figures)
    if free < EASY_DISK:
        means = "a checkpoint takes 14 bytes a parameter, and two are kept"
        return Finding(CARE, found, means, "trainer.keep_checkpoints=1, or make room", figures)
    return Finding(GOOD, found, "room for checkpoints, 14 bytes a parameter each", figures=figures)


def shared_memory() -> Finding:
    """Size of /dev/shm, by which processes of one machine talk."""
    size = shutil.disk_usage("/dev/shm").free / GIB
    found, figures = f"{size:.1f} GiB free in /dev/shm", {"free_gib": round(size, 1)}
    if size < LEAST_SHARED:
        return Finding(CARE, found, "several ranks or Chromium can fail", "docker run --shm-size=8g", figures)
    return Finding(GOOD, found, figures=figures)


def card() -> Finding:
    """Cards, driver and CUDA; none is no fault."""
    built = torch.version.cuda
    seen = _nvidia_smi("driver_version,name,memory.total")
    if not seen and not torch.cuda.is_available():
        return Finding(GOOD, "no card", "everything runs on the processor", figures={"cards": 0, "cuda": built})
    driver = seen[0].split(",")[0].strip() if seen else "unknown"
    found = f"{len(seen)} x {seen[0].split(',')[1].strip() if seen else 'card'}, driver {driver}, torch's CUDA {built}"
    figures = {"cards": len(seen), "driver": driver, "cuda": built}
    if built is None:
        return Finding(CARE, found, "torch is the CPU build: cards are not used", "make setup-gpu", figures)
    needed = DRIVERS.get(int(built.split(".")[0]))
    if needed and driver.split(".")[0].isdigit() and int(driver.split(".")[0]) < needed:
        return Finding(BAD, found, f"CUDA {built} needs driver {needed} or newer", f"install driver {needed}", figures)
    if not torch.cuda.is_available():
        return Finding(BAD, found, "torch sees no card", "start the container with its cards (--gpus all)", figures)
    return Finding(GOOD, found, "used for sampling and training", figures=figures)


def compilers() -> Finding:
    """What torch and triton compile with."""
    lacking = [name for name in ("gcc", "g++") if shutil.which(name) is None]
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        lacking.append("python3-dev")
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        lacking += [] if torch.cuda.is_available() else ["libnuma1"]
    if lacking:
        todo = f"apt-get install {' '.join(lacking)}"
        return Finding(BAD, f"missing: {', '.join(lacking)}", "vLLM compiles at its start", todo)
    version = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()
    return Finding(GOOD, f"gcc {version}, g++, Python's headers, libnuma", figures={"gcc": version})


def _nvidia_smi(fields: str) -> list[str]:
    """A line a card; nothing where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []


def _container_limit() -> int | None:
    """Bytes of the control group's limit, where it has one."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = next(iter(_lines(file)), "").strip()
        if text.isdigit() and int(text) < psutil.virtual_memory().total:
            return int(text)
    return None


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []
