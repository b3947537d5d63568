"""`evolpo score USE FILE`: what a reward says about responses in a file, without a model."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evolpo import InputError
from evolpo.recipes.runs.samples import read_samples
from evolpo.rewards.base import COLD_TIMEOUT_S, Reward, Sample, Score
from evolpo.rewards.registry import load_reward
from evolpo.rewards.service.config import ServiceConfig
from evolpo.rewards.service.service import RewardService
from evolpo.rewards.service.waiting import as_they_come
from evolpo.rewards.stack import RewardError
from evolpo.rewards.values import plain_numbers, plain_values

if TYPE_CHECKING:
    from rich.console import RenderableType

SAMPLES_IN_CALL = 64
PROGRESS_AFTER_S = 2.0
BINS = 10


@dataclass
class ScoreConfig:
    """`evolpo score`: one reward on a file of responses."""

    use: str = ""
    """Name of an installed reward, or `module:attribute`; the current directory is importable."""
    file: str = ""
    """JSONL with `prompt` and `response` (or `text`, `completion`, `output`), each text or messages; or `messages` with
    the response as the last one. If it has them also `answer`, `difficulty`, `metadata`, `token_ids`, `token_count`
    (else the words of the response), `truncated` and `group`. Other columns go into the metadata, but for `failures`,
    which the file of a run's unscored responses has."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the reward."""
    timeout_s: float = 10.0
    """Seconds a reward may work on one response (a group reward: on one group) unless it says otherwise."""
    cold_timeout_s: float = COLD_TIMEOUT_S
    """The same for the first call in a fresh process, in which a reward may load a model."""
    retries: int = 0
    """How many more times a line is tried after an error or a timeout; training has `rewards.service.retries`."""
    output: str = ""
    """JSONL to write: per line value, status, error, metrics, what else the reward tells (`artifacts`, but for pictures
    and other bytes) and seconds; empty for none."""

    def __post_init__(self) -> None:
        """Check that nothing is missing."""
        if not self.use:
            raise InputError("use: is empty; give a reward, e.g. evolpo score math samples.jsonl")
        if not self.file:
            raise InputError("file: is empty; give a JSONL file, e.g. evolpo score math samples.jsonl")
        for name in ("timeout_s", "cold_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}: {getattr(self, name)} is no deadline; give seconds above 0")
        if self.retries < 0:
            raise InputError(f"retries: {self.retries} is negative; give 0 or more")


@dataclass(frozen=True)
class Scored:
    """What the reward said about the lines of a file."""

    name: str
    """Name of the reward."""
    scores: list[Score]
    """One a line, in their order."""
    elapsed_s: float
    """Seconds for all of them."""

    @property
    def values(self) -> list[float]:
        """All values there are; unscored and skipped lines have none."""
        return [score.value for score in self.scores if score.value is not None]


def score(config: ScoreConfig) -> Scored:
    """Score all lines, write `output` if asked to, and print table, histogram and the commonest errors.

    The reward service asks the reward, as in training. Lines of one `group` (of one prompt, if there is no such column)
    are judged together by a group reward.

    Raises:
        InputError: no such reward, or the file is missing or malformed.
        RewardError: not one line could be scored; said after the table.
    """
    reward = load_reward(config.use, "use", config.options, config.timeout_s, config.cold_timeout_s)
    samples, groups = read_samples(Path(config.file))
    started = time.perf_counter()
    # Every line is worked out, equal ones too: the seconds are those of the reward.
    service = RewardService(ServiceConfig(retries=config.retries, cache_mb=0))
    try:
        scores = _score_all(service, reward, samples, groups)
    finally:
        service.close(drain=False)
    scored = Scored(reward.name, scores, time.perf_counter() - started)
    if config.output:
        _write(Path(config.output), scores)
    _print(report(scored))
    if not scored.values:
        why = scores[0].error or "it has nothing to say about them"
        raise RewardError(f"{reward.name} could score none of {len(scores)} lines; first: {why}")
    return scored


def _score_all(service: RewardService, reward: Reward, samples: Sequence[Sample], groups: Sequence[str]) -> list[Score]:
    from rich.console import Console
    from rich.progress import Progress

    scores: dict[int, Score] = {}
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task(reward.name, total=len(samples), visible=False)
        started = time.perf_counter()
        asked: dict[Future[list[Score]], list[int]] = {
            service.run(service.score(reward, [samples[index] for index in call])): call
            for call in _calls(reward, groups)
        }
        for future in as_they_come(asked):
            scores.update(zip(asked[future], future.result(), strict=True))
            slow = time.perf_counter() - started > PROGRESS_AFTER_S
            progress.update(task, completed=len(scores), visible=slow)
    return [scores[index] for index in range(len(samples))]


def _calls(reward: Reward, groups: Sequence[str]) -> list[list[int]]:
    """Indices of the samples of each call: a group, or a few of them all."""
    if reward.scope == "sample":
        indices = list(range(len(groups)))
        return [indices[start : start + SAMPLES_IN_CALL] for start in range(0, len(indices), SAMPLES_IN_CALL)]
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return list(members.values())


def _write(path: Path, scores: Sequence[Score]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for one in scores:
                line = {
                    "value": one.value,
                    "status": one.status,
                    "error": one.error,
                    "metrics": plain_numbers(one.metrics),
                }
                told = plain_values({name: value for name, value in one.artifacts.items() if name != "error"})
                line |= {"artifacts": told} if told else {}
                file.write(json.dumps(line | {"elapsed_s": one.elapsed_s}, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"output: {path} cannot be written: {error}") from error


def report(scored: Scored) -> list[RenderableType]:
    """Table of figures, histogram of values, commonest errors."""
    from rich.table import Table

    table = Table("", "", title=scored.name, show_header=False, title_justify="left")
    for name, text in _figures(scored).items():
        table.add_row(name, text)
    parts: list[RenderableType] = [table]
    if scored.values:
        parts.append(_histogram(scored.values))
    errors = [f"{one.status}: {one.error}" for one in scored.scores if one.error]
    if errors:
        counts = Table("lines", "reason", title_justify="left")
        for error in sorted(set(errors), key=errors.count, reverse=True)[:5]:
            counts.add_row(str(errors.count(error)), error[:200])
        parts.append(counts)
    return parts


def _figures(scored: Scored) -> dict[str, str]:
    count, seconds = len(scored.scores), [one.elapsed_s for one in scored.scores if one.status != "skipped"] or [0.0]
    figures = {"lines": f"{count} in {scored.elapsed_s:.2f} s, {count / scored.elapsed_s:.0f}/s"}
    if scored.values:
        p5, p50, p95 = np.percentile(scored.values, [5, 50, 95])
        figures["mean, std"] = f"{np.mean(scored.values):.4f}, {np.std(scored.values):.4f}"
        figures["p5, p50, p95"] = f"{p5:.4f}, {p50:.4f}, {p95:.4f}"
    statuses = [one.status for one in scored.scores]
    for status in sorted(set(statuses), key=statuses.count, reverse=True):
        figures[status] = f"{statuses.count(status)} ({statuses.count(status) / count:.2%})"
    p50, p99 = np.percentile(seconds, [50, 99])
    figures["latency p50, p99"] = f"{1000 * p50:.3f} ms, {1000 * p99:.3f} ms"
    return figures


def _histogram(values: Sequence[float]) -> RenderableType:
    """A bar for each value if there are few, else for each of ten bins."""
    from rich.bar import Bar
    from rich.table import Table

    distinct = sorted(set(values))
    if len(distinct) <= BINS:
        counts, labels = [values.count(one) for one in distinct], [f"{one:.4g}" for one in distinct]
    else:
        bins, edges = np.histogram(values, BINS)
        counts = bins.tolist()
        labels = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    table = Table.grid(padding=(0, 1))
    for label, count in zip(labels, counts, strict=True):
        table.add_row(label, Bar(max(counts), 0, count, width=40), str(count))
    return table


def _print(parts: Sequence[RenderableType]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    for part in parts:
        console.print(part)
