"""Where problems come from: reasoning-gym families, files, data sets of the Hugging Face hub."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.rollout.data.answers import check_pattern
from evolpo.rollout.data.cells import UnreadableError
from evolpo.rollout.data.files import Placed, read_rows, reason
from evolpo.rollout.data.generated import generate
from evolpo.rollout.data.presets import AUTO, PRESETS
from evolpo.rollout.data.problem import Problem, contradictions, normalise
from evolpo.rollout.data.rows import Reader, reader_for

__all__ = ["Problem", "SourceConfig", "check_source", "load_problems", "normalise"]

logger = logging.getLogger(__name__)

KINDS = ("reasoning_gym", "file", "jsonl", "parquet", "huggingface")
LOOKAHEAD = 100
"""Rows of a source that are looked at together to tell its columns: the first ones may have nulls."""
MAX_LEVELS = 100
"""More difficulty levels than this in one source are measurements, not levels."""

Note = Callable[[str], None]
"""Takes a line that the user should see once."""


@dataclass
class SourceConfig:
    """One source of problems and its share of the mix."""

    kind: str = "reasoning_gym"
    """`reasoning_gym`, `file` (`jsonl` and `parquet` are the same) or `huggingface`."""
    family: str = ""
    """reasoning_gym: name of the task family, e.g. `chain_sum`."""
    params: dict[str, Any] = field(default_factory=dict)
    """reasoning_gym: the family's own parameters, i.e. its difficulty; a `seed` here overrides the run's."""
    size: int = 2000
    """reasoning_gym: how many problems to generate; duplicates among them are dropped."""
    path: str = ""
    """file: a file, a pattern such as `data/*.parquet`, or a folder. huggingface: name on the hub, or a folder."""
    subset: str = ""
    """huggingface: name of the configuration, e.g. `main`; empty for the only one."""
    split: str = "train"
    """huggingface: the split, slices such as `train[:1000]` included. file: which files of a folder with several."""
    preset: str = AUTO
    """Shape of the rows: `auto`, `verl`, `trl`, `openrlhf`, `alpaca`, `sharegpt`, `code`, `gsm8k` or `columns`."""
    prompt_column: str | None = None
    """Column with the problem, text or messages; `a.b` reaches into nested ones; null: as the preset says."""
    answer_column: str | None = None
    """Column with the reference answer; null: as the preset says; empty if the data has none."""
    answer_pattern: str | None = None
    """What of an answer counts: `####`, `boxed` or a regular expression; null: as the preset says; empty: all of it."""
    system_column: str | None = None
    """Column with the row's own system message; null: `system`, if there is one; empty for none."""
    tools_column: str | None = None
    """Column with the tools for the chat template; null: `tools`, if there is one; empty for none."""
    passage_column: str | None = None
    """Column with the text that a question is about, which goes before it; null: `context`, `passage`, `article`,
    `paragraph`, `body` or `premise` beside questions that are text; empty for none."""
    difficulty_column: str = ""
    """Column with the name of the difficulty level; empty to use `difficulty`."""
    difficulty: str = ""
    """Name of the difficulty level of the whole source."""
    task_column: str | None = None
    """Column with the task that `tasks` of the rewards' components name; null: verl's `data_source`; empty for none."""
    task: str = ""
    """Name of the task of the whole source; empty to use `task_column`, or the family."""
    weight: float = 1.0
    """Share of the training mix, relative to the other sources."""


def check_source(source: SourceConfig, where: str) -> None:
    """Raise InputError if the source is incomplete; `where` is its full name, e.g. `data.train[0]`."""
    if source.kind not in KINDS:
        raise InputError(f"{where}.kind: {source.kind!r} is unknown; use one of {', '.join(KINDS)}")
    if not (math.isfinite(source.weight) and source.weight > 0):
        raise InputError(f"{where}.weight: {source.weight} is no share; give a number above 0 or remove the source")
    if source.kind == "reasoning_gym":
        if not source.family:
            hint = "set kind: file to read `path`, or " if source.path else ""
            raise InputError(f"{where}.family: is empty; {hint}name a reasoning-gym family, e.g. chain_sum")
        if source.size < 1:
            raise InputError(f"{where}.size: {source.size} problems cannot be generated; give at least 1")
        if "size" in source.params:
            raise InputError(f"{where}.params: `size` does not belong here; set {where}.size")
        return
    if not source.path:
        raise InputError(f"{where}.path: is empty; name the {source.kind} data to read")
    if source.prompt_column == "":
        raise InputError(f"{where}.prompt_column: is empty; name the column with the problems")
    if source.preset != AUTO and source.preset not in PRESETS:
        raise InputError(f"{where}.preset: {source.preset!r} is unknown; use {AUTO}, {', '.join(PRESETS)}")
    check_pattern(source.answer_pattern or "", f"{where}.answer_pattern")
    for option in ("difficulty", "task"):
        name = getattr(source, f"{option}_column")
        if name and getattr(source, option):
            raise InputError(
                f"{where}.{option}: {getattr(source, option)!r} and {option}_column={name}; give one of them"
            )


def load_problems(
    sources: Sequence[SourceConfig], field: str = "data.train", seed: int = 0, note: Note = logger.info
) -> list[Problem]:
    """Read or generate the problems of all sources, in order, each once.

    A generated problem is the same as one of the same text; a row is the same as one that is equal in all columns.
    What was seen before, in the same source or in an earlier one, is dropped and counted.

    Args:
        sources: what to load.
        field: full name of the list in the configuration, for messages and for the seeds of generated sources, so that
            `data.train` and `data.heldout` are generated from different seeds.
        seed: seed of the run.
        note: gets a line a source: how it was read, and what was dropped.

    Raises:
        InputError: a source is incomplete, unreadable, malformed or empty.
    """
    if not sources:
        raise InputError(f"{field}: has no source; add one, e.g. {{kind: reasoning_gym, family: chain_sum}}")
    seen: set[str] = set()
    problems: list[Problem] = []
    for index, source in enumerate(sources):
        where = f"{field}[{index}]"
        check_source(source, where)
        reader, found = _read(source, index, where, seed, partial(_noted, note, where))
        kept, dropped = [], 0
        for key, problem in found:
            dropped += key in seen
            if key not in seen:
                seen.add(key)
                kept.append(problem)
        if not kept:
            raise InputError(f"{where}: has no problem of its own ({dropped} duplicates dropped); remove it or mend it")
        _check_levels(kept, source, where)
        shape = f", read as {reader.columns}" if reader else ""
        note(f"{where}: {len(kept)} problems, {dropped} duplicates dropped{shape}")
        for line in reader.notes() if reader else ():
            _noted(note, where, line)
        problems += kept
    if line := contradictions(problems):
        note(f"{field}: {line}")
    return problems


def _noted(note: Note, where: str, line: str) -> None:
    note(f"{where}: {line}")


def _check_levels(problems: Sequence[Problem], source: SourceConfig, where: str) -> None:
    levels = {problem.difficulty for problem in problems}
    if len(levels) > MAX_LEVELS:
        raise InputError(
            f"{where}.difficulty_column: {source.difficulty_column!r} holds {len(levels)} different values, e.g. "
            f"{min(levels)!r}; give a column with at most {MAX_LEVELS} levels"
        )


def _read(
    source: SourceConfig, index: int, where: str, seed: int, note: Note
) -> tuple[Reader | None, Iterator[tuple[str, Problem]]]:
    """What reads the rows, None for generated problems, and the problems with what tells them apart."""
    if source.kind == "reasoning_gym":
        difficulty = source.difficulty
        found = generate(source.family, source.params, source.size, seed, where, difficulty, index)
        return None, ((normalise(problem.text), _with_task(problem, source.task)) for problem in found)
    placed = _rows(source, where, note)
    head = list(islice(placed, LOOKAHEAD))
    if not head:
        raise InputError(f"{where}: has no problem; {source.path} holds no rows")
    # The name of the file, not its path: moving the data must not change the ids.
    name = source.path if source.kind == "huggingface" else Path(source.path).name
    reader = reader_for(source, head, where, f"{source.kind}:{name}", index)
    return reader, _problems(reader, chain(head, placed))


def _problems(reader: Reader, placed: Iterator[Placed]) -> Iterator[tuple[str, Problem]]:
    """The problems of all rows. Raises InputError for the first row that no model can read, with their number."""
    first: UnreadableError | None = None
    count = unreadable = 0
    for place, row in placed:
        count += 1
        try:
            yield reader.problem(row, place)
        except UnreadableError as error:
            first = first or error
            unreadable += 1
        except InputError:
            if first is None:
                raise
    if first is not None:
        raise InputError(f"{first} ({unreadable} of {count} rows)" if unreadable > 1 else str(first)) from first


def _with_task(problem: Problem, task: str) -> Problem:
    return replace(problem, task=task) if task else problem


def _rows(source: SourceConfig, where: str, note: Note) -> Iterator[Placed]:
    if source.kind == "huggingface":
        return _read_huggingface(source, where)
    return read_rows(source.path, f"{where}.path", source.split, source.kind == "parquet", note)


def _read_huggingface(source: SourceConfig, where: str) -> Iterator[Placed]:
    import datasets

    saved = Path(source.path)
    try:
        if (saved / "dataset_dict.json").is_file():
            rows = datasets.load_from_disk(str(saved / source.split))
        elif (saved / "state.json").is_file():
            rows = datasets.load_from_disk(source.path)
        else:
            rows = datasets.load_dataset(source.path, source.subset or None, split=source.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        message = f"cannot load {source.path!r} ({reason(error)}); check path, subset and split"
        raise InputError(f"{where}.path: {message}") from error
    return ((f"{source.path} row {number}", row) for number, row in enumerate(rows, start=1))
