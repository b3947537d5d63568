"""The figures of a run, a step at a time: metrics.jsonl, TensorBoard, W&B."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from evolpo import InputError
from evolpo.model.files import DamagedError, read_bytes
from evolpo.rl.logs.files import replacing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_FILE = "metrics.jsonl"


@dataclass
class LoggerConfig:
    """Where the figures of a run go besides `metrics.jsonl`, which is always written."""

    tensorboard: bool = True
    """Write TensorBoard events into the `tensorboard` folder of the run."""
    wandb: bool = False
    """Send the metrics to Weights & Biases; needs the extra `evolpo[wandb]`."""
    wandb_project: str = "evolpo"
    """W&B project the run appears in."""
    samples_per_step: int = 4
    """Responses kept in `samples.parquet` at every step; 0 keeps none."""
    record: bool = False
    """Keep the scored groups of every step in the `batches` folder of the run, for `replay`."""
    progress: bool = True
    """Show progress on stderr: a live display on a terminal, one line a step elsewhere."""

    def __post_init__(self) -> None:
        if self.samples_per_step < 0:
            raise InputError(f"logger.samples_per_step: {self.samples_per_step} is negative; give 0 or more")
        if self.wandb and not self.wandb_project:
            raise InputError("logger.wandb_project: empty, but logger.wandb is on; name a W&B project")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a `metrics.jsonl`, oldest step first; a missing file has no steps.

    A process killed while it wrote leaves half a last line: that line is left out. A figure that was not finite is
    None, and its key is listed under `non_finite`.

    Raises:
        DamagedError: a line other than the last one is no record of a step.
    """
    return _records(path, path.read_bytes()) if path.exists() else []


def _records(path: Path, content: bytes) -> list[dict[str, Any]]:
    lines = content.splitlines()
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record["step"], int):
                raise ValueError("no step")
            records.append(record)
        except (ValueError, KeyError, RecursionError):
            if number < len(lines):
                reason = f"is damaged: line {number} is not JSON of a step; delete the line to read the rest"
                raise DamagedError(path, reason) from None
    return records


def check_metrics(path: Path, written: Mapping[str, Any] | None) -> None:
    """Hold a `metrics.jsonl` against what a checkpoint knows of it; one that is missing is not looked at.

    Args:
        path: the file.
        written: `MetricsWriter.written` when the checkpoint was made; None where it does not say.

    Raises:
        DamagedError: it is not what was written, or no log.
    """
    if not path.exists():
        return
    content = read_bytes(path)
    if written is not None and hashlib.sha256(content[: written["bytes"]]).hexdigest() != written["sha256"]:
        raise DamagedError(path, "is not what was written before the checkpoint (its checksum differs)")
    steps = [record["step"] for record in _records(path, content)]
    for number, (before, step) in enumerate(pairwise(steps), start=2):
        if step <= before:
            raise DamagedError(path, f"is damaged: line {number} is of step {step}, after one of step {before}")


def _record(step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    """One line of `metrics.jsonl`. JSON has no NaN and no infinity: those become null and are named."""
    record: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
    non_finite = []
    for key, value in metrics.items():
        if math.isfinite(value):
            record[key] = value if isinstance(value, int) else float(value)
        else:
            record[key] = None
            non_finite.append(key)
    if non_finite:
        record["non_finite"] = non_finite
    return record


class MetricsWriter:
    """Writes the metrics of a run, a step at a time, to every place the configuration names. For one process only.

    Args:
        run: folder of the run; made if missing.
        config: where the metrics go.
        resume_step: last finished step of the checkpoint the run goes on from; whatever was logged after it is
            dropped, because those steps will be done again. None starts the log afresh.

    Raises:
        InputError: W&B is asked for and not installed.
    """

    def __init__(self, run: Path, config: LoggerConfig, resume_step: int | None = None) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self._wandb = _start_wandb(run, config) if config.wandb else None
        path = run / METRICS_FILE
        kept = [] if resume_step is None else [r for r in read_metrics(path) if r["step"] <= resume_step]
        lines = "".join(json.dumps(record) + "\n" for record in kept)
        with replacing(path) as temporary:
            temporary.write_text(lines)
        self._file = path.open("a")
        self._sum, self._bytes = hashlib.sha256(lines.encode()), len(lines.encode())
        self._tensorboard = _start_tensorboard(run, resume_step) if config.tensorboard else None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one finished step, safe on disk when this returns.

        Args:
            step: 1-based number of the finished step; 0 is the model before training.
            metrics: flat names to figures; figures that are not finite are allowed.
        """
        line = json.dumps(_record(step, metrics), allow_nan=False) + "\n"
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._sum.update(line.encode())
        self._bytes += len(line.encode())
        if self._tensorboard is not None:
            for key, value in metrics.items():
                self._tensorboard.add_scalar(key, value, step)
            self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step, commit=True)

    def written(self) -> dict[str, Any]:
        """Size and SHA-256 of `metrics.jsonl` as it is now, for `check_metrics`."""
        return {"bytes": self._bytes, "sha256": self._sum.hexdigest()}

    def close(self) -> None:
        """Finish all the logs; the writer is of no use afterwards."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _start_tensorboard(run: Path, resume_step: int | None) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    # TensorBoard hides earlier events from `purge_step` on, so that steps done again are not drawn twice.
    purge_step = 0 if resume_step is None else resume_step + 1
    return SummaryWriter(str(run / "tensorboard"), purge_step=purge_step)


def _start_wandb(run: Path, config: LoggerConfig) -> Any:
    try:
        import wandb
    except ImportError:
        raise InputError("logger.wandb: the package wandb is not installed; pip install 'evolpo[wandb]'") from None
    import yaml

    run = run.resolve()
    settings = run / "config.yaml"
    return wandb.init(
        project=config.wandb_project,
        name=f"{run.parent.name}/{run.name}",
        # Named after the folder, so that a resumed run goes on as the same one; W&B keeps the first figures of a step.
        id=f"{run.parent.name}-{run.name}",
        resume="allow",
        dir=str(run),
        config=yaml.safe_load(settings.read_text()) if settings.exists() else None,
    )
