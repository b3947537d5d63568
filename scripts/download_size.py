"""Say which torch pip would take, and how large it is, from the report of `pip install --dry-run --report -`.

Usage: download_size.py < REPORT. Prints nothing where nothing is missing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen


def size_of(url: str) -> int:
    """Bytes of a wheel, without taking it.

    Raises:
        OSError, TypeError: nobody says.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).stat().st_size
    with urlopen(Request(url, method="HEAD"), timeout=20) as answer:
        return int(answer.headers["Content-Length"])


def summary(report: dict[str, Any], size_of: Callable[[str], int] = size_of) -> str:
    """One line: the build of torch, how many packages, how many gigabytes; empty where pip has nothing to do."""
    found = report["install"]
    if not found:
        return ""
    versions = {item["metadata"]["name"]: item["metadata"]["version"] for item in found}
    total, unknown = 0, 0
    for item in found:
        try:
            total += size_of(item["download_info"]["url"])
        except (OSError, TypeError, ValueError):
            unknown += 1
    size = f"{total / 1e9:.1f} GB to take" + (f" and {unknown} of unknown size" if unknown else "")
    build = "with CUDA" if any(name.startswith("nvidia-") for name in versions) else "for CPUs"
    return f"torch {versions.get('torch', 'is here')}, the build {build}: {len(found)} packages, {size}"


if __name__ == "__main__":
    print(summary(json.load(sys.stdin)))
