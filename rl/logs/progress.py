"""How far a run is, on stderr: live on a terminal, a line a step elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from evolpo.rl.logs.metrics import LoggerConfig

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress


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
