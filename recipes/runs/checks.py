"""Checks of ranges that many configurations share."""

from __future__ import annotations

from evolpo import InputError


def check_positive(config: object, *names: str, group: str = "") -> None:
    """Raise InputError unless the fields of these names are positive; `group` stands before the names in messages."""
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{group}{name}: {getattr(config, name)} is not positive")


def check_not_negative(config: object, *names: str) -> None:
    """Raise InputError unless the fields of these names are 0 or more."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise InputError(f"{name}: {getattr(config, name)} is negative; give 0 or more")
