"""One run of a comparison as its report sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolpo.recipes.runs.evaluation import Judged, judged_files, read_judged
from evolpo.recipes.runs.folder import CONFIG, read_config
from evolpo.rl.logs.metrics import METRICS_FILE, read_metrics


@dataclass(frozen=True)
class ComparedRun:
    """A run and all that it measured."""

    table: str
    """`published`: at the algorithm's published clip range; `tuned`: at the best of an equal small search."""
    algorithm: str
    """Label of the algorithm: a key of `LOSSES`, or such as `lpo:token` where something of it is swept."""
    seed: int
    folder: str
    """Folder of the run; empty if it never started."""
    status: str
    """`ok`, `failed` or `pending`."""
    error: str
    """What went wrong, on one line; empty if nothing did."""
    records: tuple[Mapping[str, Any], ...]
    """`metrics.jsonl`: one object a step; step 0 is the evaluation before training."""
    evaluations: Mapping[int, tuple[Judged, ...]]
    """Verdicts on the held-out problems by step."""
    config: Mapping[str, Any]
    """The whole `config.yaml` of the run."""


def compared_run(table: str, algorithm: str, seed: int, folder: Path, status: str, error: str) -> ComparedRun:
    """Read what a run has left in its folder; what is not there is empty."""
    config = folder / CONFIG
    return ComparedRun(
        table=table,
        algorithm=algorithm,
        seed=seed,
        folder=str(folder) if config.exists() else "",
        status=status,
        error=error,
        records=tuple(read_metrics(folder / METRICS_FILE)),
        evaluations={step: tuple(read_judged(path)) for step, path in judged_files(folder).items()},
        config=read_config(folder),
    )
