"""Modules beside the user: importable, before installed packages, and never in place of Python's own."""

from __future__ import annotations

import sys
from pathlib import Path


def make_importable(folder: str | Path) -> None:
    """Let modules in a folder be imported.

    The folder stands behind Python's own library: a `code.py` or `types.py` of the user, which nobody meant to replace
    anything, would end every process that imports Python's. It stands before installed packages, as a script's does.

    Args:
        folder: an existing folder, absolute.
    """
    name = str(folder)
    others = [one for one in sys.path if one not in ("", name)]
    installed = (i for i, one in enumerate(others) if Path(one).name in ("site-packages", "dist-packages"))
    place = next(installed, len(others))
    sys.path[:] = [*others[:place], name, *others[place:]]
