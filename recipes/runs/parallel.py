"""Whether a model and the ranks of a run can be divided into engines that several ranks share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.model.files import read_object

DIVIDED = ("num_attention_heads", "intermediate_size", "moe_intermediate_size")
"""Sizes of which each rank of an engine gets the same part."""


def check_ranks(parts: int, ranks: int) -> None:
    """Raise InputError unless engines of `parts` ranks each use all ranks of a run."""
    if ranks % parts:
        raise InputError(
            f"rollout.tensor_parallel: engines of {parts} ranks each cannot share out the {ranks} of this run; give a "
            f"divisor of {ranks}, or processes as a multiple of {parts}"
        )


def check_model(parts: int, model: str) -> None:
    """Raise InputError unless each of `parts` ranks can have the same part of a model; of the hub nothing is known."""
    file = Path(model) / "config.json"
    if parts > 1 and file.is_file():
        check_sizes("rollout.tensor_parallel", parts, read_object(file))


def check_sizes(field: str, parts: int, sizes: Mapping[str, Any]) -> None:
    """Raise InputError unless heads and layers of these sizes, named as in a config.json, can be divided by `parts`.

    Key-value heads that are fewer than the parts are held by several ranks, as many by each head.
    """
    hindrance = next(_hindrances(parts, sizes), "")
    if hindrance:
        fitting = [n for n in range(parts - 1, 0, -1) if not next(_hindrances(n, sizes), "")]
        raise InputError(f"{field}: {parts} does not divide the model's {hindrance}; {fitting[0]} does")


def _hindrances(parts: int, sizes: Mapping[str, Any]) -> Iterator[str]:
    for name in DIVIDED:
        size = sizes.get(name)
        if isinstance(size, int) and size % parts:
            yield f"{name}={size}"
    heads = sizes.get("num_key_value_heads")
    if isinstance(heads, int) and heads % parts and parts % heads:
        yield f"num_key_value_heads={heads}"
