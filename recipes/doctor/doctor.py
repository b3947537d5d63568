"""`evolpo doctor`: the table of checks, what is printed of them, and the file for an issue."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from evolpo import InputError, __version__
from evolpo.recipes.doctor import machine, packages, programs, tiny
from evolpo.recipes.doctor.finding import BAD, STYLES, Check, Finding, run_checks
from evolpo.recipes.doctor.gpu import GPU_CHECKS

CHECKS: Mapping[str, Check] = {
    "python": packages.python,
    "packages": packages.locked,
    "processor": machine.processor,
    "memory": machine.memory,
    "disk": machine.disk,
    "shared memory": machine.shared_memory,
    "card": machine.card,
    "compilers": machine.compilers,
    "sandbox": programs.sandbox,
    "node": programs.node,
    "browser": programs.browser,
    "fonts": programs.fonts,
    "training loop": tiny.loop,
}
"""What a machine is asked, in this order; a minute in all."""


@dataclass
class DoctorConfig:
    """`evolpo doctor`: checks of this machine."""

    gpu: bool = False
    """Check the cards too: kernels against plain maths, memory, speed, ZeRO on all of them; ten minutes."""
    output: str = ""
    """JSON file to write the findings to, for an issue; no names of users, hosts or folders go into it."""

    def __post_init__(self) -> None:
        """Check that the file can be written."""
        if self.output and not Path(self.output).resolve().parent.is_dir():
            raise InputError(f"output: the folder of {self.output} does not exist")


def main(config: DoctorConfig) -> None:
    """Run `evolpo doctor` from the command line: exit code 1 if something is bad, 2 if there is no card to check."""
    if config.gpu and not torch.cuda.is_available():
        raise InputError("gpu: this machine has no card that torch sees; `evolpo doctor` checks the rest")
    checks = dict(CHECKS) | (dict(GPU_CHECKS) if config.gpu else {})
    found = report(checks, Console(highlight=False))
    if config.output:
        write(Path(config.output), found)
        print(f"written: {config.output}")
    sys.exit(1 if any(one["verdict"] == BAD for one in found.values()) else 0)


def report(checks: Mapping[str, Check], console: Console) -> dict[str, dict[str, Any]]:
    """Run checks and print each as it ends; returns the findings by name."""
    results: dict[str, dict[str, Any]] = {}
    width = max(map(len, checks))
    for name, finding, seconds in run_checks(checks):
        console.print(_line(name, finding, width), soft_wrap=True)
        results[name] = asdict(finding) | {"seconds": round(seconds, 1)}
    bad = [name for name, one in results.items() if one["verdict"] == BAD]
    console.print(f"{len(results)} checks, " + (f"bad: {', '.join(bad)}" if bad else "nothing bad"), soft_wrap=True)
    return results


def _line(name: str, finding: Finding, width: int) -> Text:
    text = Text(f"{name:<{width}}  ")
    text.append(f"{finding.verdict:<9}", STYLES[finding.verdict])
    text.append(f"  {finding.found}")
    for part, mark in ((finding.means, "means: "), (finding.todo, "do: ")):
        if part:
            text.append(f"\n{'':<{width}}             {mark if mark != 'means: ' else ''}{part}")
    return text


def write(file: Path, found: Mapping[str, Any]) -> None:
    """The findings as JSON, written beside the place and renamed."""
    beside = file.with_name(f"{file.name}.part")
    beside.write_text(json.dumps({"evolpo": __version__, "checks": found}, indent=1, default=str) + "\n")
    beside.rename(file)
