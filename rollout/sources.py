"""Where problems come from: reasoning-gym families, JSONL and Parquet files, data sets of the Hugging Face hub."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from evolpo import InputError

logger = logging.getLogger(__name__)

KINDS = ("reasoning_gym", "jsonl", "parquet", "huggingface")


@dataclass
class SourceConfig:
    """One source of problems and its share of the mix."""

    kind: str = "reasoning_gym"
    """`reasoning_gym`, `jsonl`, `parquet` or `huggingface`."""
    family: str = ""
    """reasoning_gym: name of the task family, e.g. `chain_sum`."""
    params: dict[str, Any] = field(default_factory=dict)
    """reasoning_gym: the family's own parameters, i.e. its difficulty; a `seed` here overrides the run's."""
    size: int = 2000
    """reasoning_gym: how many problems to generate; duplicates among them are dropped."""
    path: str = ""
    """jsonl, parquet: the file. huggingface: name on the hub, or a local folder."""
    subset: str = ""
    """huggingface: name of the configuration, e.g. `main`; empty for the only one."""
    split: str = "train"
    """huggingface: the split, slices such as `train[:1000]` included."""
    prompt_column: str = "prompt"
    """Column with the problem's text."""
    answer_column: str = "answer"
    """Column with the reference answer; empty if the data has none."""
    difficulty_column: str = ""
    """Column with the name of the difficulty level; empty to use `difficulty`."""
    difficulty: str = ""
    """Name of the difficulty level of the whole source."""
    weight: float = 1.0
    """Share of the training mix, relative to the other sources."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, before any tokenizer has seen it."""

    id: str
    """Hash of source name and text: the same problem always has the same id."""
    text: str
    """The problem as its source words it."""
    answer: str | None = None
    """The reference answer, if the source has one."""
    difficulty: str = ""
    """Name of the difficulty level, empty if the source has none."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """reasoning_gym: `family` and the complete `entry`, as its verifier wants it; else the remaining columns."""
    source: int = 0
    """Index of the source in its list."""


def check_source(source: SourceConfig, where: str) -> None:
    """Raise InputError if the source is incomplete; `where` is its full name, e.g. `data.train[0]`."""
    if source.kind not in KINDS:
        raise InputError(f"{where}.kind: {source.kind!r} is unknown; use one of {', '.join(KINDS)}")
    if not (math.isfinite(source.weight) and source.weight > 0):
        raise InputError(f"{where}.weight: {source.weight} is no share; give a number above 0 or remove the source")
    if source.kind == "reasoning_gym":
        if not source.family:
            raise InputError(f"{where}.family: is empty; name a reasoning-gym family, e.g. chain_sum")
        if source.size < 1:
            raise InputError(f"{where}.size: {source.size} problems cannot be generated; give at least 1")
        if "size" in source.params:
            raise InputError(f"{where}.params: `size` does not belong here; set {where}.size")
        return
    if not source.path:
        raise InputError(f"{where}.path: is empty; name the {source.kind} data to read")
    if not source.prompt_column:
        raise InputError(f"{where}.prompt_column: is empty; name the column with the problems")


def load_problems(sources: Sequence[SourceConfig], field: str = "data.train", seed: int = 0) -> list[Problem]:
    """Read or generate the problems of all sources, in order, each text once.

    A text that was seen before, in the same source or in an earlier one, is dropped; the drops are logged.

    Args:
        sources: what to load.
        field: full name of the list in the configuration, for messages and for the seeds of generated sources, so that
            `data.train` and `data.heldout` are generated from different seeds.
        seed: seed of the run.

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
        kept, dropped = [], 0
        for problem in _read(source, index, where, seed):
            key = normalise(problem.text)
            dropped += key in seen
            if key not in seen:
                seen.add(key)
                kept.append(problem)
        if not kept:
            raise InputError(f"{where}: has no problem of its own ({dropped} duplicates dropped); remove it or mend it")
        logger.info("%s: %d problems, %d duplicates dropped", where, len(kept), dropped)
        problems += kept
    return problems


def normalise(text: str) -> str:
    """The text with each run of white space as one blank: two problems are the same if these are equal."""
    return " ".join(text.split())


def read_jsonl(path: str, field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`FILE line N`, object) for each line that is not blank.

    Raises:
        InputError: there is no such file, or a line is no JSON object; `field` is named in the message.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                place = f"{path} line {number}"
                try:
                    row = json.loads(line.rstrip())
                except json.JSONDecodeError as error:
                    message = f"{place}: not valid JSON ({error.msg} at column {error.colno}); mend or remove the line"
                    raise InputError(f"{field}: {message}") from error
                if not isinstance(row, dict):
                    raise InputError(f"{field}: {place}: a {type(row).__name__}, not an object with named columns")
                yield place, row
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{field}: cannot read {path} ({_reason(error)}); give a readable UTF-8 file") from error


def column(row: Mapping[str, Any], name: str, place: str, field: str) -> Any:
    """The value of a named column; InputError lists the columns that exist if it is not there."""
    if name not in row:
        raise InputError(f"{field}: {place} has no column {name!r}; it has: {', '.join(row) or 'none'}")
    return row[name]


def _read(source: SourceConfig, index: int, where: str, seed: int) -> Iterator[Problem]:
    if source.kind == "reasoning_gym":
        return _generate(source, index, where, seed)
    rows: dict[str, Callable[[], Iterator[tuple[str, dict[str, Any]]]]] = {
        "jsonl": lambda: read_jsonl(source.path, f"{where}.path"),
        "parquet": lambda: _read_parquet(source, where),
        "huggingface": lambda: _read_huggingface(source, where),
    }
    return (_problem_of_row(row, place, source, index, where) for place, row in rows[source.kind]())


def _problem_of_row(row: dict[str, Any], place: str, source: SourceConfig, index: int, where: str) -> Problem:
    text = column(row, source.prompt_column, place, f"{where}.prompt_column")
    if not isinstance(text, str) or not text.strip():
        kind = "empty text" if isinstance(text, str) else f"a {type(text).__name__}"
        message = f"column {source.prompt_column!r} holds {kind}; it must hold the problem's text"
        raise InputError(f"{where}.prompt_column: {place}: {message}")
    answer, difficulty = None, source.difficulty
    if source.answer_column:
        if source.answer_column not in row:
            names = ", ".join(row)
            message = f'has no column {source.answer_column!r}; it has: {names}; use "" if the data has no answers'
            raise InputError(f"{where}.answer_column: {place} {message}")
        value = row[source.answer_column]
        answer = None if value is None else str(value)
    if source.difficulty_column:
        difficulty = str(column(row, source.difficulty_column, place, f"{where}.difficulty_column"))
    used = {source.prompt_column, source.answer_column, source.difficulty_column}
    rest = {name: value for name, value in row.items() if name not in used}
    # The name of the file, not its path: moving the data must not change the ids.
    name = source.path if source.kind == "huggingface" else Path(source.path).name
    return Problem(_problem_id(f"{source.kind}:{name}", text), text, answer, difficulty, rest, index)


def _read_parquet(source: SourceConfig, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(source.path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        message = f"cannot read {source.path} ({_reason(error)}); give a readable Parquet file"
        raise InputError(f"{where}.path: {message}") from error
    return ((f"{source.path} row {number}", row) for number, row in enumerate(rows, start=1))


def _read_huggingface(source: SourceConfig, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    try:
        rows = datasets.load_dataset(source.path, source.subset or None, split=source.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        message = f"cannot load {source.path!r} ({_reason(error)}); check path, subset and split"
        raise InputError(f"{where}.path: {message}") from error
    return ((f"{source.path} row {number}", row) for number, row in enumerate(rows, start=1))


def _generate(source: SourceConfig, index: int, where: str, seed: int) -> Iterator[Problem]:
    # Importing all task families takes about a second.
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if source.family not in DATASETS:
        near = difflib.get_close_matches(source.family, DATASETS, n=3, cutoff=0)
        raise InputError(f"{where}.family: reasoning-gym has no {source.family!r}; did you mean {', '.join(near)}?")
    settings = {"seed": _source_seed(seed, where), **source.params}
    try:
        entries = reasoning_gym.create_dataset(source.family, size=source.size, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        known = ", ".join(f.name for f in fields(DATASETS[source.family][1]) if f.name not in ("size", "seed"))
        raise InputError(f"{where}.params: {_reason(error)}; {source.family} takes: {known}") from error
    for number in range(source.size):
        entry = entries[number]
        text = entry["question"]
        metadata = {"family": source.family, "entry": entry}
        problem_id = _problem_id(f"reasoning_gym:{source.family}", text)
        yield Problem(problem_id, text, entry["answer"], source.difficulty, metadata, index)


def _source_seed(seed: int, where: str) -> int:
    """A hash, not a sum: reasoning-gym seeds problem i with seed + i, so neighbouring seeds would share problems."""
    return int.from_bytes(hashlib.sha256(f"{seed} {where}".encode()).digest()[:4], "big")


def _problem_id(source_name: str, text: str) -> str:
    return hashlib.sha256(f"{source_name}\n{normalise(text)}".encode()).hexdigest()[:16]


def _reason(error: BaseException) -> str:
    """What went wrong, on one line."""
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
    return text.splitlines()[0]
