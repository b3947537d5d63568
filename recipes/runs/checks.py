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


def check_results_file(output: str) -> None:
    """Raise InputError unless the field `output` can be the file of a bench's results."""
    if not output.endswith(".json"):
        raise InputError(f"output: {output!r} does not end in .json; give the file of the results")


def check_precision(precision: str) -> None:
    """Raise InputError unless the field `precision` is one that a bench can be told."""
    if precision not in ("auto", "bf16", "fp32"):
        raise InputError(f"precision: {precision!r} is none of auto, bf16, fp32")
