"""Benches that go on where they were ended: the parts of one folder share their settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.model.files import read_object
from evolpo.rl.logs.files import write_json


def check_settings(folder: Path, setting: Mapping[str, Any], parts: str) -> None:
    """Keep the settings of a new folder; raise InputError if one holds parts (by that name) of other settings."""
    file = folder / "settings.json"
    if not file.exists():
        write_json(file, setting)
    for name, there in read_object(file).items():
        if there != setting[name]:
            raise InputError(
                f"{name}: {folder} holds {parts} with {there!r}, not {setting[name]!r}; give another output"
            )
