"""Which toolkit a plain function was written for, told by what it calls its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolpo.rewards.adapters.signatures import Signature

TOLD_BY: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "trl": (("completions",),),
    "verl": (("solution_str",), ("solution_strs",)),
    "openrlhf": (("queries", "prompts", "labels"),),
    "slime": (("args", "sample"), ("args", "samples")),
    "rllm": (("task_info", "action"), ("reward_input",)),
    "skyrl": (("response", "ground_truth"),),
    "nemo_rl": (("ground_truth", "response"),),
    "verifiers": (("completion", "answer"), ("completion", "state"), ("prompt", "completion")),
}
"""Adapter -> sequences of names, one of which its functions' parameters begin with or, of one name, hold."""
_ASKS_FORM = {"trl", "verifiers"}
"""Adapters that must be told whether the function reads messages."""


def how_to_use(found: Any, path: str) -> str:
    """What to write in a recipe to use a function of another toolkit; empty if it looks like none of them.

    Args:
        found: a callable.
        path: its `module:attribute`.
    """
    try:
        names = Signature.of(found).names
    except ValueError:
        return ""
    for adapter, ways in TOLD_BY.items():
        if any(way[0] in names if len(way) == 1 else names[: len(way)] == way for way in ways):
            form = ", conversational: false" if adapter in _ASKS_FORM else ""
            return f'use: "evolpo.rewards.adapters:{adapter}", options: {{function: "{path}"{form}}}'
    return ""
