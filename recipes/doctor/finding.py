"""What a check finds, and how checks are run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GOOD, CARE, BAD = "good", "take care", "bad"
"""Verdicts: nothing to do; something is missing or slow; runs will fail."""
STYLES = {GOOD: "green", CARE: "yellow", BAD: "red"}
"""Their colours on a terminal."""
ISSUE = "attach output=FILE to an issue"
"""What to do of what nobody can mend who sees it."""
LONGEST = 300
"""Characters of an error that are shown."""


@dataclass(frozen=True)
class Finding:
    """What a check says."""

    verdict: str
    found: str
    """What there is."""
    means: str = ""
    """What that means for a run."""
    todo: str = ""
    """What to do; empty where there is nothing."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Numbers for the file."""


Check = Callable[[], Finding]


def run_checks(checks: Mapping[str, Check]) -> Iterator[tuple[str, Finding, float]]:
    """Name, finding and seconds of each check, as they end; one that raises is a finding too."""
    for name, check in checks.items():
        began = time.monotonic()
        try:
            finding = check()
        except Exception as error:  # noqa: BLE001 -- a machine that is broken breaks anywhere
            text = without_places(" ".join(str(error).split()))[:LONGEST]
            finding = Finding(BAD, f"{type(error).__name__}: {text}", "the check itself failed", ISSUE)
        yield name, finding, time.monotonic() - began


def without_places(text: str) -> str:
    """A text without folders of this machine: of a path its last part stays."""
    text = text.replace(str(Path.home()), "~")
    return re.sub(r"(?<![^\s'\"(=])~?(?:/[\w.+~@-]+)+/([\w.+~@-]+)", r".../\1", text)
