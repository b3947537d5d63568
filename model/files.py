"""The files of a model folder or checkpoint, read so that a damaged one is one line that names it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolpo import InputError

LFS = b"version https://git-lfs"
"""How the file begins that git leaves in place of a large one that was not fetched."""
HEADER_BYTES = 100_000_000
"""Longest header that safetensors itself reads."""
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
BITS |= {"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64}
BITS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64}
"""Bits of one number by safetensors' names."""


class DamagedError(InputError):
    """A file is not what it should be.

    Args:
        file: which.
        reason: what is wrong with it, as the rest of a sentence about it.
    """

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file} {' '.join(reason.split())}")
        self.file, self.reason = file, reason


@dataclass(frozen=True)
class Stored:
    """A tensor as the header of its file describes it."""

    dtype: str
    """By safetensors' name, such as BF16."""
    shape: tuple[int, ...]


def read_bytes(file: Path) -> bytes:
    """The content of a small file.

    Raises:
        DamagedError: it is missing, empty, a folder or a pointer of git-lfs, or cannot be read.
    """
    with _damage_named(file):
        content = file.read_bytes()
    _check_start(file, content[: len(LFS)])
    return content


def read_text(file: Path) -> str:
    """The content of a small file of UTF-8.

    Raises:
        DamagedError: there is no such file, or it holds none.
    """
    try:
        text = read_bytes(file).decode()
    except UnicodeDecodeError as error:
        raise DamagedError(file, f"is no UTF-8 text ({error})") from None
    if "\0" in text:
        raise DamagedError(file, "is no text, it holds zeros")
    return text


def read_json(file: Path) -> Any:
    """The value in a JSON file.

    Raises:
        DamagedError: there is no such file, or it holds none.
    """
    content = read_bytes(file)
    try:
        return json.loads(content.decode())  # of another encoding json itself would guess
    except RecursionError:
        raise DamagedError(file, "is no JSON that can be read (nested too deeply)") from None
    except ValueError as error:  # of the encoding and of numbers with thousands of digits too
        raise DamagedError(file, f"is no JSON ({str(error)[:200]})") from None


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DamagedError: there is no such file, or it holds none.
    """
    found = read_json(file)
    if not isinstance(found, dict):
        raise DamagedError(file, f"holds no object but a {type(found).__name__}")
    return found


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file by name; no weights are read.

    Raises:
        DamagedError: the file is not one, or is longer or shorter than its header says.
    """
    with _damage_named(file), file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        start = opened.read(8)
        _check_start(file, start + opened.read(len(LFS) - 8))
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, HEADER_BYTES):
            raise DamagedError(file, "is no safetensors file, or is cut short in its header")
        opened.seek(8)
        text = opened.read(length)
    try:
        raw = json.loads(text)
        tensors = {name: _tensor(entry) for name, entry in raw.items() if name != "__metadata__"}
        end = max((stop for _, stop in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DamagedError(file, "is no safetensors file (its header is garbled)") from None
    if size != 8 + length + end:
        raise DamagedError(file, f"has {size} bytes and its header speaks of {8 + length + end}; it is cut or garbled")
    return {name: stored for name, (stored, _) in tensors.items()}


def _tensor(entry: Mapping[str, Any]) -> tuple[Stored, int]:
    """An entry of a header, and where its bytes end.

    Raises:
        ValueError, TypeError, KeyError: it does not hold together.
    """
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(one) is int and one >= 0 for one in (*shape, begin, end)):
        raise ValueError("no size")
    if (end - begin) * 8 != math.prod(shape) * BITS[entry["dtype"]]:
        raise ValueError("another size")
    return Stored(entry["dtype"], shape), end


@contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    """Turns errors of the system about a file into `DamagedError`."""
    try:
        yield
    except FileNotFoundError:
        raise DamagedError(file, "is missing") from None
    except IsADirectoryError:
        raise DamagedError(file, "is a folder, where a file should be") from None
    except OSError as error:
        raise DamagedError(file, f"cannot be read ({error.strerror or error})") from None


def _check_start(file: Path, start: bytes) -> None:
    if not start:
        raise DamagedError(file, "is empty")
    if start.startswith(LFS):
        raise DamagedError(file, "is a git-lfs pointer, not the file itself: run `git lfs pull` in its folder")
