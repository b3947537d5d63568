"""What a run tells its user while it works: metrics.jsonl, TensorBoard, W&B, samples.parquet, the progress display."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from evolpo import InputError

if TYPE_CHECKING:
    import pyarrow
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from torch.utils.tensorboard import SummaryWriter

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.parquet"
READ_AT_ONCE = 100
"""Rows of `samples.parquet` that lie together: who wants one of them reads them all."""


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
    progress: bool = True
    """Show progress on stderr: a live display on a terminal, one line a step elsewhere."""

    def __post_init__(self) -> None:
        if self.samples_per_step < 0:
            raise InputError(f"logger.samples_per_step: {self.samples_per_step} is negative; give 0 or more")
        if self.wandb and not self.wandb_project:
            raise InputError("logger.wandb_project: empty, but logger.wandb is on; name a W&B project")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place, whole, when the block succeeds.

    A reader sees the old file or the new one, never a part; a block that fails leaves the old file as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a `metrics.jsonl`, oldest step first; a missing file has no steps.

    A process killed while it wrote leaves half a last line: that line is left out. A figure that was not finite is
    None, and its key is listed under `non_finite`.

    Raises:
        ValueError: a line other than the last one is not JSON.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not JSON; delete the line to read the rest") from None
    return records


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
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a")
        self._tensorboard = _start_tensorboard(run, resume_step) if config.tensorboard else None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one finished step, safe on disk when this returns.

        Args:
            step: 1-based number of the finished step; 0 is the model before training.
            metrics: flat names to figures; figures that are not finite are allowed.
        """
        record = _record(step, metrics)
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._tensorboard is not None:
            for key, value in metrics.items():
                self._tensorboard.add_scalar(key, value, step)
            self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step, commit=True)

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


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One response kept for reading: a row of `samples.parquet`."""

    step: int
    """1-based number of the step the response was trained on."""
    prompt_id: str
    difficulty: str
    prompt: str
    """The problem as the user would write it."""
    answer: str | None
    """The reference answer, if the data has one."""
    response: str
    reward: float | None
    """None where the response could not be scored."""
    advantage: float
    breakdown: dict[str, float | None]
    """Value of each reward component by name."""
    sentences: list[tuple[str, int, float | None]]
    """Of each unit in order: its text, its length in tokens, its importance ratio (None if not trained on)."""
    tokens: int
    """Length of the response in tokens."""
    finish_reason: str
    logprob_gap: float
    """Mean absolute difference between the log-probabilities of trainer and rollout engine, in nats."""


class SampleTable:
    """The responses kept for reading, in `samples.parquet`.

    Args:
        run: folder of the run; must exist.
        resume_step: last finished step of the checkpoint the run goes on from; rows of later steps are dropped. None
            starts an empty table, which replaces an older one at the first `save`.
    """

    def __init__(self, run: Path, resume_step: int | None = None) -> None:
        self._path = run / SAMPLES_FILE
        self._new: list[SampleRow] = []
        self._saved = _schema().empty_table()
        if resume_step is not None and self._path.exists():
            import pyarrow.compute
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(self._path, schema=_schema())
            self._saved = table.filter(pyarrow.compute.field("step") <= resume_step)

    def add(self, rows: Sequence[SampleRow]) -> None:
        """Add rows; they are in memory until `save`."""
        self._new.extend(rows)

    def save(self) -> None:
        """Write all rows, replacing the file as a whole."""
        import pyarrow
        import pyarrow.parquet

        fresh = pyarrow.Table.from_pylist([_to_arrow(row) for row in self._new], schema=_schema())
        table = pyarrow.concat_tables([self._saved, fresh])
        with replacing(self._path) as temporary:
            pyarrow.parquet.write_table(table, temporary, compression="zstd", row_group_size=READ_AT_ONCE)
        self._saved, self._new = table, []


def read_samples(path: Path, places: Sequence[int] | None = None, most_sentences: int | None = None) -> list[SampleRow]:
    """Read a `samples.parquet` in the order the rows were added; a missing file has no rows.

    Args:
        path: the file.
        places: rows to read, counted from 0, ascending and none twice; parts of the file without them are not read.
            None reads all rows.
        most_sentences: of each row no more than its first ones; None reads all.
    """
    if not path.exists():
        return []
    import pyarrow
    import pyarrow.compute
    import pyarrow.dataset

    [fragment] = pyarrow.dataset.dataset(path, schema=_schema()).get_fragments()
    if places is None:
        table = fragment.to_table(schema=_schema())
    else:
        sizes = [group.num_rows for group in fragment.row_groups]
        begins = list(accumulate(sizes, initial=0))
        groups = [bisect_right(begins, place) - 1 for place in places]
        wanted = sorted(set(groups))
        moved = dict(zip(wanted, accumulate((sizes[group] for group in wanted), initial=0), strict=False))
        table = fragment.subset(row_group_ids=wanted).to_table(schema=_schema())
        within = [place - begins[group] + moved[group] for place, group in zip(places, groups, strict=True)]
        table = table.take(pyarrow.array(within, pyarrow.int64()))
    if most_sentences is not None:
        column = table.schema.get_field_index("sentences")
        first = pyarrow.compute.list_slice(table.column(column), 0, most_sentences)
        table = table.set_column(column, "sentences", first)
    rows = table.to_pylist()
    for row in rows:
        row["breakdown"] = dict(row["breakdown"])
        row["sentences"] = [(unit["text"], unit["tokens"], unit["ratio"]) for unit in row["sentences"]]
    return [SampleRow(**row) for row in rows]


def read_sample_columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Some columns of a `samples.parquet`, of all rows; a missing file has no rows."""
    if not path.exists():
        return {name: [] for name in names}
    import pyarrow.parquet

    columns: dict[str, list[Any]] = pyarrow.parquet.read_table(path, columns=list(names)).to_pydict()
    return columns


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    sentence = pa.struct({"text": pa.string(), "tokens": pa.int32(), "ratio": pa.float64()})
    return pa.schema(
        {
            "step": pa.int64(),
            "prompt_id": pa.string(),
            "difficulty": pa.string(),
            "prompt": pa.string(),
            "answer": pa.string(),
            "response": pa.string(),
            "reward": pa.float64(),
            "advantage": pa.float64(),
            "breakdown": pa.map_(pa.string(), pa.float64()),
            "sentences": pa.list_(sentence),
            "tokens": pa.int32(),
            "finish_reason": pa.string(),
            "logprob_gap": pa.float64(),
        }
    )


def _to_arrow(row: SampleRow) -> dict[str, Any]:
    sentences = [{"text": text, "tokens": tokens, "ratio": ratio} for text, tokens, ratio in row.sentences]
    return asdict(row) | {"breakdown": list(row.breakdown.items()), "sentences": sentences}


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class Progress:
    """Shows on stderr how a run is doing: live on a terminal, one plain line a step elsewhere.

    Args:
        steps: number of the run's last step.
        config: `progress` turns the display on.
        rank: rank of this process; only rank 0 shows anything.
        start: last finished step of a resumed run.
    """

    def __init__(self, steps: int, config: LoggerConfig, rank: int = 0, start: int = 0) -> None:
        self._steps = steps
        self._show = config.progress and rank == 0
        self._live = self._show and sys.stderr.isatty()
        self._done = start
        self._began = self._last = time.monotonic()
        self._durations: deque[float] = deque(maxlen=10)
        self._held_out = ""
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        if self._live:
            from rich.console import Console

            self._bar = _bar(Console(stderr=True))
            self._bar.add_task("starting", total=self._steps, completed=self._done, figures="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def phase(self, text: str) -> None:
        """Say what the run is doing now, in a word or two; only the live display shows it."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=text)

    def note(self, text: str) -> None:
        """Show a message that stays, such as "starting vLLM"."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self._show:
            print(text, file=sys.stderr, flush=True)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the figures of a finished step; `metrics` are named as in `metrics.jsonl`, any may be absent."""
        now = time.monotonic()
        if step > self._done:
            # Before the first step there is start-up, which says nothing about the time of the steps to come.
            first = not self._durations
            self._durations.append(metrics.get("seconds/step", now - self._last) if first else now - self._last)
        self._last, self._done = now, step
        if "eval/accuracy" in metrics:
            self._held_out = f"held-out {metrics['eval/accuracy']:.1%} (step {step})"
        figures = list(self._figures(metrics))
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, figures="  ".join(figures))
        elif self._show:
            line = [f"step {step}/{self._steps}", *figures, f"elapsed {_clock(now - self._began)}"]
            print("  ".join(line), file=sys.stderr, flush=True)

    def _figures(self, metrics: Mapping[str, float]) -> Iterator[str]:
        """The figures both displays show, in words."""
        formats = {
            "reward/mean": "reward {:.3f}",
            "accuracy": "accuracy {:.1%}",
            "response/tokens_mean": "length {:.0f}",
            "kl": "kl {:.4f}",
        }
        for key, text in formats.items():
            if key in metrics:
                yield text.format(metrics[key])
        if "clip/low" in metrics or "clip/high" in metrics:
            yield f"clipped {metrics.get('clip/low', 0.0) + metrics.get('clip/high', 0.0):.1%}"
        if "tokens_per_s" in metrics:
            yield f"{metrics['tokens_per_s']:,.0f} tokens/s"
        if self._held_out:
            yield self._held_out
        if self._durations and self._done < self._steps:
            mean = sum(self._durations) / len(self._durations)
            yield f"left {_clock(mean * (self._steps - self._done))}"


def _bar(console: Console) -> RichProgress:
    """A bar with what is going on now, and the figures of the last step on the line below."""
    from rich.console import RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Display(RichProgress):
        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            yield Text("  " + "".join(task.fields["figures"] for task in self.tasks), style="dim")

    return Display(
        SpinnerColumn(),
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        # A stdout that goes to a file must not be caught by a display on the terminal.
        redirect_stdout=sys.stdout.isatty(),
    )
