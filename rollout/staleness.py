"""When a group may be asked for, and which groups a training step takes, so that none is older than wanted.

Sampling and training overlap, so a group is asked for under one version of the policy and trained on under a later one.
Its staleness is the difference. The rule is pure: no clock, no engine, no I/O.

Admitting by capacity alone and taking groups in the order of finishing (Fu et al., "AReaL", 2025, section 5.1) goes
beyond the bound: quick young groups take the places of slow old ones. Taking the oldest finished ones first does not
hold it either. What does is to reserve a place for every group that is still being sampled, in the last step that may
take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Bound = Literal["hard", "soft"]
BOUNDS: tuple[Bound, ...] = ("hard", "soft")


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A group that was asked for and that no step has taken yet."""

    born: int
    """Version of the policy when it was asked for: the number of finished training steps."""
    finished: bool
    """Whether all of its responses are there."""


def room(asked: int, version: int, per_step: int, max_staleness: int) -> int:
    """How many more groups may be asked for now, so that a full batch takes the last of them in time.

    Args:
        asked: groups asked for since the beginning, those that gave their place back left out.
        version: number of finished training steps.
        per_step: groups that a training step takes.
        max_staleness: largest staleness of a group; 0 asks for a step's groups when the step before is done.
    """
    return max(0, (max_staleness + version + 1) * per_step - asked)


def batch(
    outstanding: Sequence[Outstanding], version: int, per_step: int, max_staleness: int, bound: Bound = "hard"
) -> list[int] | None:
    """Which of the outstanding groups the next training step takes; None if it has to wait.

    `hard`: the step waits until at least `per_step` groups are finished and, for every j from 0 to `max_staleness`, no
    more than j * `per_step` unfinished ones would be too old after j more steps. It takes the oldest finished ones. As
    long as groups are asked for within `room`, no group that is taken is older than `max_staleness`, none is dropped,
    and once all outstanding groups are finished there is a batch: after each step at most j * `per_step` groups remain
    that must be taken within j steps, which the next step's condition keeps true.

    `soft`: it takes the oldest finished ones as soon as there are `per_step`; groups can be older than `max_staleness`.

    Args:
        outstanding: in the order in which they were asked for.
        version: number of finished training steps.
        per_step: groups that a step takes.
        max_staleness: see `room`.
        bound: hard or soft.

    Returns:
        `per_step` places in `outstanding`, the oldest first.
    """
    finished = [place for place, group in enumerate(outstanding) if group.finished]
    if len(finished) < per_step:
        return None
    for steps in range(max_staleness + 1) if bound == "hard" else ():
        due = version - max_staleness + steps
        unfinished = sum(not group.finished and group.born <= due for group in outstanding)
        if unfinished > steps * per_step:
            return None
    return sorted(finished, key=lambda place: outstanding[place].born)[:per_step]
