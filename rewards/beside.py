"""Modules beside the user: importable, and never in place of Python's own or of an installed package."""

from __future__ import annotations

import sys
from pathlib import Path


def make_importable(folder: str | Path) -> None:
    """Let modules in a folder be imported.

    The folder stands last. A `code.py` or a `numpy.py` in a folder that somebody got with some data, and which nobody
    meant to replace anything, would else run in every process that imports the real one.

    Args:
        folder: an existing folder, absolute.
    """
    name = str(folder)
    sys.path[:] = [*(one for one in sys.path if one not in ("", name)), name]
