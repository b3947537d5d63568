"""Files that are changed at random: each reader gives what it gives for a good one, or says in a line what is wrong."""

import contextlib
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tiny_models import write_tiny_model

from evolpo import InputError
from evolpo.model.loading import load_tokenizer
from evolpo.model.support import check_folder
from evolpo.recipes.arguments.file import read_config_file
from evolpo.recipes.config import SftConfig, TrainConfig
from evolpo.recipes.runs.folder import read_config, read_start
from evolpo.rollout.data.chat import chat_tokens
from evolpo.rollout.data.files import read_rows

ROUNDS = 40
ODD = [None, True, -1, 0, 10**30, 1e308, float("nan"), "", [], {}, [[]], "x" * 5000, {"a": {"b": 1}}, 2**63, "../../x"]
PIECES = [b"\0" * 50, b"\xff\xfe", b"[[" * 3000, b'{"a":' * 3000, b"9" * 6000, b"1e999", b"NaN", b"\xed\xa0\x80"]
PIECES += [b"!!python/object/apply:os.system [x]", b"&a [*a, *a]", b'"' * 7, b"\\u0000", b"{{" * 200, b"\xef\xbb\xbf"]


def other_values(value: Any, luck: random.Random) -> Any:
    """A value of JSON in which some are of another type, and some fields are missing or called otherwise."""
    if luck.random() < 0.08:
        return luck.choice(ODD)
    if isinstance(value, dict):
        kept = [(name, one) for name, one in value.items() if luck.random() > 0.04]
        return {name + "x" * (luck.random() < 0.02): other_values(one, luck) for name, one in kept}
    return [other_values(one, luck) for one in value] if isinstance(value, list) else value


def changed(content: bytes, luck: random.Random) -> bytes:
    """Flipped bits, cut, doubled, odd pieces inside, other values; or something else altogether."""
    first, last = sorted(luck.randrange(len(content) + 1) for _ in range(2))
    match luck.randrange(8):
        case 0:
            flipped = bytearray(content)
            for _ in range(luck.choice([1, 1, 3, 20])):
                flipped[luck.randrange(len(flipped))] ^= 1 << luck.randrange(8)
            return bytes(flipped)
        case 1:
            return content[:first]
        case 2:
            return content[:first] + content[last:]
        case 3:
            return content[:first] + luck.choice(PIECES) + content[first:]
        case 4:
            return content[:first] + content[first:last] * luck.choice([2, 20]) + content[last:]
        case 5:
            return luck.randbytes(luck.randrange(2000))
        case 6:
            return luck.choice([b"", b"null", b"[]", b"3", b'"x"', b"{}", b"[" * 3000])
    with contextlib.suppress(ValueError):
        return json.dumps(other_values(json.loads(content), luck)).encode()
    return content + content


def try_all(files: dict[Path, bytes], read: Callable[[Path], object], seed: str) -> None:
    luck = random.Random(seed)
    for _ in range(ROUNDS):
        for file, content in files.items():
            file.write_bytes(changed(content, luck))
            with contextlib.suppress(InputError):
                read(file)
            file.write_bytes(content)


def test_data(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n}", "answer": str(n), "n": n, "more": {"a": ["x"]}} for n in range(20)]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    lines = "\n".join(map(json.dumps, rows)).encode()
    with pyarrow.CompressedOutputStream(str(tmp_path / "a.jsonl.zst"), "zstd") as stream:
        stream.write(lines)
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text("prompt,answer\n" + "".join(f'"q, {n}",{n}\n' for n in range(20)))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    files = {file: file.read_bytes() for file in sorted(tmp_path.iterdir())}
    try_all(files, lambda file: list(read_rows(str(file))), "data")


def test_a_configuration(tmp_path: Path) -> None:
    fields = ["name: x", "steps: 3", "data:", "  heldout_size: 4", "  train:", "  - {kind: reasoning_gym, size: 40}"]
    fields += ["rewards:", "  components:", "  - use: math", "    weight: 1.0", "trainer: {learning_rate: 1e-5}"]
    files = {tmp_path / "mine.yaml": "\n".join(fields).encode()}
    try_all(files, lambda file: read_config_file(str(file), TrainConfig), "yaml")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "model")
    return tmp_path / "model"


def test_a_model(model: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    length = int.from_bytes(weights[:8], "little")
    luck = random.Random("headers")
    for _ in range(ROUNDS):
        header = changed(weights[8 : 8 + length], luck)
        (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + weights[8 + length :])
        with contextlib.suppress(InputError):
            check_folder(model)
    (model / "model.safetensors").write_bytes(weights)
    names = ("model.safetensors", "config.json", "generation_config.json")
    try_all({model / name: (model / name).read_bytes() for name in names}, lambda file: check_folder(model), "model")


def test_a_tokenizer(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROUNDS", 10)
    files = {file: file.read_bytes() for file in sorted(model.iterdir()) if file.name.startswith(("tokenizer", "chat"))}
    assert len(files) == 3
    try_all(files, lambda file: chat_tokens(load_tokenizer(str(model)), "be", "hi"), "tokenizer")


def test_a_tokenizer_that_loads_and_cannot_be_called(model: Path) -> None:
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": {"a": 1}}))
    with pytest.raises(InputError, match=r"model\.path: .* its tokenizer does not load"):
        load_tokenizer(str(model))


def test_what_a_run_says_of_itself(tmp_path: Path) -> None:
    from evolpo.recipes.runs.folder import write_config, write_start

    write_config(tmp_path, SftConfig())
    write_start(tmp_path)

    def read(file: Path) -> None:
        read_config(tmp_path)
        read_start(tmp_path)

    try_all({file: file.read_bytes() for file in sorted(tmp_path.iterdir())}, read, "run")
