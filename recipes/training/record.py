"""What each step of a run was trained on, kept beside the run (`logger.record`), and read again (`replay`)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.rl.data import Group
from evolpo.rl.logs.files import replacing
from evolpo.rollout.replay import as_json, from_json

FOLDER = "batches"
"""Of a run: one file a step."""


def batch_file(run: Path, step: int) -> Path:
    """Where the groups of a step are."""
    return run / FOLDER / f"step_{step}.json.gz"


def write_batch(run: Path, step: int, by_rank: Sequence[Sequence[Group]], metrics: dict[str, float]) -> None:
    """Keep the scored groups that each rank trains on in a step, and what was measured of them, whole or not at all."""
    content = {"ranks": [[as_json(group) for group in groups] for groups in by_rank], "metrics": metrics}
    path = batch_file(run, step)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(json.dumps(content).encode(), compresslevel=5, mtime=0))


def read_batch(run: Path, step: int, rank: int, world: int) -> tuple[list[Group], dict[str, float]]:
    """The groups of a rank in a step, and what was measured of those of all ranks.

    Raises:
        InputError: the step was not recorded, by as many ranks, or its file is damaged.
    """
    path = batch_file(run, step)
    try:
        content: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        ranks, metrics = content["ranks"], content["metrics"]
        groups = [from_json(one) for one in ranks[rank]] if len(ranks) == world else []
    except FileNotFoundError:
        raise InputError(f"replay: {run} has not recorded step {step}; set steps={step - 1}") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"replay: {path} is damaged ({error}); restore it from a copy") from None
    if len(ranks) != world:
        raise InputError(f"replay: {run} was recorded by {len(ranks)} ranks; set processes={len(ranks)}")
    return groups, metrics


def check_replay(run: Path, steps: int) -> None:
    """Raise InputError unless all steps of a run were recorded."""
    missing = next((step for step in range(1, steps + 1) if not batch_file(run, step).is_file()), None)
    if missing is not None:
        raise InputError(
            f"replay: {run} has not recorded step {missing}; set steps={missing - 1}"
            if missing > 1
            else f"replay: {run} has recorded nothing; record a run by logger.record=true"
        )
