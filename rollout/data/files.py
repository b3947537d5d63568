"""Rows of data files: JSON lines, JSON arrays, CSV, Parquet, Arrow; compressed, in shards, whoever wrote them."""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import io
import json
import lzma
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from evolpo import InputError

Placed = tuple[str, dict[str, Any]]
"""Where a row stands, such as `FILE line N`, and the row."""

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
_ARROW = (".arrow", ".feather")
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ": "xz"}
_MAGIC_PARQUET = b"PAR1"
_MAGIC_ARROW = b"ARROW1"
_LOOKED_AT = 512
"""Bytes at the start of a file that tell what it is."""
LONGEST_LINE = 1 << 28
"""Characters of a line that is one row; a small compressed file may hold one without end."""
_MAGIC_LFS = b"version https://git-lfs"
_NO_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
_WRAPPERS = ("data", "rows", "examples", "instances", "items", "problems", "train", "test")
_SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev", "eval"), "validation"
)


def read_rows(
    path: str,
    field: str = "path",
    split: str = "train",
    parquet: bool = False,
    note: Callable[[str], None] | None = None,
) -> Iterator[Placed]:
    """Yield (place, row) of one file, of the files that a pattern matches, or of the shards in a folder, by name.

    Formats are JSON lines, a JSON array of objects (or an object that holds one), CSV, TSV, Parquet and Arrow, also as
    `datasets` saves it to disk; `.gz`, `.zst`, `.bz2` and `.xz` around text are told by content, not by name. Text is
    UTF-8 or, with a byte order mark, UTF-16.

    Args:
        path: file, pattern (`data/train-*.parquet`) or folder.
        field: full name of the field that `path` comes from, for messages.
        split: in a folder whose files are named after several splits, those of this one are read.
        parquet: whether it must be Parquet, whatever the files are called.
        note: gets a line that says which files of a folder are left out.

    Raises:
        InputError: there is no such file, or it is malformed.
    """
    for file in data_files(path, field, split, note):
        try:
            _check_fetched(file)
            yield from _parquet_rows(file) if parquet else _rows_of_file(file, field)
        except InputError:
            raise
        except (OSError, EOFError, UnicodeError, lzma.LZMAError, zlib.error, ValueError) as error:
            message = f"cannot read {file} ({reason(error)}); give a readable {_described(file, parquet)} file"
            raise InputError(f"{field}: {message}") from error


def _check_fetched(file: Path) -> None:
    if file.exists() and not file.is_file():
        raise ValueError("a pipe or a device: write what comes from it to a file first")
    with file.open("rb") as raw:
        if raw.read(len(_MAGIC_LFS)) == _MAGIC_LFS:
            raise ValueError("a git-lfs pointer, not the file itself: run `git lfs pull`")


def data_files(
    path: str, field: str = "path", split: str = "train", note: Callable[[str], None] | None = None
) -> list[Path]:
    """The files behind a path, those of folders below it included, sorted by name; see `read_rows`.

    Raises:
        InputError: there are none.
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", path):
        mend = "download it, or name a data set of the hub with kind: huggingface"
        raise InputError(f"{field}: {path} is an address, and files are read from disk; {mend}")
    target = Path(path).expanduser()
    if target.is_dir():
        there = [file for file in _below(target) if _is_named(file, target)]
        found = [file for file in there if _format_of(file) in FORMATS]
        if not found:
            raise InputError(f"{field}: the folder {path} holds no data file; known are {', '.join(FORMATS)}")
        taken = _of_split(found, target, split, field)
        if note:
            _note_left_out(there, taken, target, split, note)
        return taken
    if target.exists() or not glob.has_magic(path):
        return [target]
    found = sorted(Path(name) for name in glob.glob(str(target), recursive=True) if Path(name).is_file())  # noqa: PTH207 - a pattern may be absolute
    if not found:
        raise InputError(f"{field}: no file matches {path}; check the pattern")
    return found


def reason(error: BaseException) -> str:
    """What went wrong, on one line."""
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
    return text.splitlines()[0]


def _below(folder: Path) -> list[Path]:
    """All files below a folder, also behind links: clusters keep shards so."""
    seen: set[str] = set()
    found = []
    for here, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(here) in seen:
            folders.clear()  # a link that leads back
            continue
        seen.add(os.path.realpath(here))
        found += [Path(here) / name for name in names]
    return sorted(found)


def _is_named(file: Path, folder: Path) -> bool:
    """Whether its name, and that of its folders, is not one of hidden files, descriptions or documents."""
    parts = file.relative_to(folder).parts
    hidden = any(part.startswith((".", "_")) for part in parts)
    document = file.suffix.lower() in (".md", ".lock") or file.name.upper().startswith("LICENSE")
    document |= file.name.startswith("cache-") and file.suffix == ".arrow"  # what `datasets` keeps of its own work
    return file.is_file() and not hidden and not document and file.name not in _NO_DATA


def _note_left_out(there: list[Path], taken: list[Path], folder: Path, split: str, note: Callable[[str], None]) -> None:
    others = [file for file in there if file not in set(taken)]
    splits = [file for file in others if _format_of(file) in FORMATS]
    for files, why in (
        (splits, f"named after other splits than {split!r}, or after none"),
        ([file for file in others if _format_of(file) not in FORMATS], "of no known format"),
    ):
        if files:
            verb = "file is" if len(files) == 1 else "files are"
            note(f"{len(files)} {verb} left out, {why}: {files[0].relative_to(folder)}{' ...' * (len(files) > 1)}")


def _of_split(files: list[Path], folder: Path, split: str, field: str) -> list[Path]:
    """Files of one split, where the names tell of several; without such names all of them."""
    name = re.match(r"\w*", split)
    wanted = _SPLIT_NAMES.get(name.group() if name else "", split)
    named = {file: _split_of(file.relative_to(folder)) for file in files}
    if len(set(named.values())) == 1:
        return files
    chosen = [file for file in files if named[file] == wanted]
    if not chosen:
        there = ", ".join(sorted({one or "files without one" for one in named.values()}))
        raise InputError(f"{field}: the folder {folder} holds no split {split!r}; it has: {there}")
    return chosen


def _split_of(file: Path) -> str:
    """The split that a file or its folder is named after, empty if none."""
    for part in reversed(file.parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_NAMES:
                return _SPLIT_NAMES[word]
    return ""


def _format_of(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() not in COMPRESSED]
    return suffixes[-1] if suffixes else ""


def _described(file: Path, parquet: bool) -> str:
    if parquet:
        return "Parquet"
    known = {".parquet": "Parquet", ".csv": "UTF-8 CSV", ".tsv": "UTF-8 TSV"} | dict.fromkeys(_ARROW, "Arrow")
    return known.get(_format_of(file), "UTF-8" if _format_of(file) in FORMATS else " or ".join(FORMATS))


def _rows_of_file(file: Path, field: str) -> Iterator[Placed]:
    with file.open("rb") as raw:
        start = raw.read(_LOOKED_AT)
    if start.startswith(_MAGIC_PARQUET) or _format_of(file) == ".parquet":
        yield from _parquet_rows(file)
        return
    if start.startswith(_MAGIC_ARROW) or _format_of(file) in _ARROW:
        yield from _arrow_rows(file, start)
        return
    if b"\0" in start and not start.startswith((*_MAGIC, b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it is no text")
    with _decompressed(file, start) as stream:
        text = io.TextIOWrapper(stream, encoding=_encoding(stream), newline="")
        rows = _csv_rows(text, file) if _format_of(file) in (".csv", ".tsv") else _json_rows(text, file, field)
        yield from rows


def _decompressed(file: Path, start: bytes) -> io.BufferedReader:
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "")
    stream: Any
    if kind == "zstd":
        import pyarrow

        stream = pyarrow.CompressedInputStream(pyarrow.OSFile(str(file)), "zstd")
    else:
        openers: Mapping[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
        stream = openers[kind](file, "rb") if kind else file.open("rb")
    # One object that can peek, whatever lies below.
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)


def _encoding(stream: io.BufferedReader) -> str:
    start = stream.peek(4)[:4]
    return "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"


def _json_rows(text: IO[str], file: Path, field: str) -> Iterator[Placed]:
    """Rows of JSON lines, or of one JSON value that is, or holds, a list of objects."""
    number, first, lines = 0, "", _lines(text)
    for number, first in enumerate(lines, start=1):  # noqa: B007 - goes on below
        if first.strip():
            break
    if not first.strip():
        return
    whole = first.lstrip().startswith("[")
    if not whole:
        try:
            whole = _holds_rows(json.loads(first))
        except (ValueError, RecursionError):
            whole = first.strip() == "{" or _format_of(file) == ".json"
    if whole:
        yield from _array_rows(first + text.read(), file, field)
        return
    yield from _json_line(first, f"{file} line {number}", field)
    for number, line in enumerate(lines, start=number + 1):  # noqa: B020
        if line.strip():
            yield from _json_line(line, f"{file} line {number}", field)


def _holds_rows(value: Any) -> bool:
    """Whether an object is a wrapper around rows, by the names that such wrappers have."""
    rows = [value.get(name) for name in _WRAPPERS] if isinstance(value, dict) else []
    return any(isinstance(one, list) and one and isinstance(one[0], dict) for one in rows)


def _lines(text: IO[str]) -> Iterator[str]:
    """Lines as JSON has them: U+2028, U+0085 and the like end none."""
    for line in _bounded(text):
        yield line.rstrip("\r\n")


def _bounded(text: IO[str]) -> Iterator[str]:
    """Lines with their ends. Of a first one that may be a whole array, what is beyond the bound is left to read."""
    number = 0
    while line := text.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE and not (number == 1 and line[:_LOOKED_AT].lstrip().startswith("[")):
            raise ValueError(f"line {number} is longer than {LONGEST_LINE >> 20} MiB")
        yield line


def _json_line(line: str, place: str, field: str) -> Iterator[Placed]:
    try:
        row = json.loads(line.rstrip(), object_pairs_hook=_object_of)
    except DuplicateKeyError as error:
        raise InputError(f"{field}: {place}: {error}; leave one of them out") from error
    except (ValueError, RecursionError) as error:
        where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else reason(error)
        raise InputError(f"{field}: {place}: not valid JSON ({where}); mend or remove the line") from error
    yield _object(row, place, field)


class DuplicateKeyError(Exception):
    """An object has a name twice; JSON would let the last one win."""


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [name, *_] = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise DuplicateKeyError(f"an object has {name!r} twice")
    return found


def _object(row: Any, place: str, field: str) -> Placed:
    if not isinstance(row, dict):
        raise InputError(f"{field}: {place}: a {type(row).__name__}, not an object with named columns")
    return place, row


def _array_rows(text: str, file: Path, field: str) -> Iterator[Placed]:
    try:
        value = json.loads(text, object_pairs_hook=_object_of)
    except DuplicateKeyError as error:
        raise InputError(f"{field}: {file}: {error}; leave one of them out") from error
    except (ValueError, RecursionError) as error:
        where = f"{error.msg} at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else reason(error)
        raise InputError(f"{field}: {file}: not valid JSON ({where}); mend the file") from error
    if isinstance(value, dict):
        lists = {name: one for name, one in value.items() if isinstance(one, list) and one and isinstance(one[0], dict)}
        if len(lists) != 1:
            names = ", ".join(lists) or "none"
            message = f"one object that holds {len(lists)} lists of rows ({names}); give a JSON array or JSON lines"
            raise InputError(f"{field}: {file}: {message}")
        [value] = lists.values()
    for number, row in enumerate(value, start=1):
        yield _object(row, f"{file} item {number}", field)


def _csv_rows(text: IO[str], file: Path) -> Iterator[Placed]:
    csv.field_size_limit(sys.maxsize)
    lines = _bounded(text)
    header = next(lines, "")
    semicolons = header.count(";") > header.count(",") and _format_of(file) == ".csv"
    delimiter = "\t" if _format_of(file) == ".tsv" else ";" if semicolons else ","
    rows = csv.reader(chain([header], lines), delimiter=delimiter, strict=True)  # a name may be of several lines
    begun = 1
    try:
        names = next(rows, [])
        if twice := [name for name, count in Counter(names).items() if count > 1 and name.strip()]:
            raise ValueError(f"the header has {twice[0]!r} twice; rename one of them")
        begun = rows.line_num + 1
        for row in rows:
            place = f"line {begun}"
            begun = rows.line_num + 1
            if not row:
                continue
            if len(row) > len(names):
                raise ValueError(f"{place} has {len(row)} cells for {len(names)} columns")
            if names.count("") > 1 and (lost := [c for n, c in zip(names, row, strict=False) if not n and c.strip()]):
                raise ValueError(f"{place}: {lost[0][:40]!r} stands below no name; name the column")
            yield f"{file} {place}", dict.fromkeys(names) | dict(zip(names, row, strict=False))
    except csv.Error as error:
        why = "a cell that begins with a quote does not end with one; double the quotes that are meant as such"
        raise ValueError(f"line {begun}: {why}; {error} in line {rows.line_num}") from error


def _arrow_rows(file: Path, start: bytes) -> Iterator[Placed]:
    import pyarrow
    import pyarrow.ipc

    number = 0
    try:
        with pyarrow.memory_map(str(file)) as source:
            if start.startswith(_MAGIC_ARROW):
                reader = pyarrow.ipc.open_file(source)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                batches = iter(pyarrow.ipc.open_stream(source))
            for batch in batches:
                batch.validate(full=True)  # Lengths and offsets of a damaged file lead outside of it.
                for row in cast("list[dict[str, Any]]", batch.to_pylist()):
                    number += 1
                    yield f"{file} row {number}", row
    except pyarrow.ArrowException as error:
        raise ValueError(reason(error)) from error


def _parquet_rows(file: Path) -> Iterator[Placed]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        if twice := [name for name, count in Counter(table.schema_arrow.names).items() if count > 1]:
            raise ValueError(f"it has the column {twice[0]!r} twice")
        for batch in table.iter_batches(batch_size=1000):
            for row in cast("list[dict[str, Any]]", batch.to_pylist()):
                number += 1
                yield f"{file} row {number}", row
    except pyarrow.ArrowException as error:
        raise ValueError(reason(error)) from error
