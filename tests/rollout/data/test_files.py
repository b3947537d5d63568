"""Every file that people have gives its rows, or one clear line."""

import bz2
import gzip
import json
import lzma
import os

import pyarrow
import pyarrow.parquet
import pytest

from evolpo import InputError
from evolpo.rollout.data.files import data_files, read_rows

ROWS = [{"prompt": f"Say {i}.", "answer": i, "tags": ["a", "b"]} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def rows_of(path, **options):
    return [row for _, row in read_rows(str(path), **options)]


def compressed(kind, data):
    if kind == "zst":
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind](data)


@pytest.mark.parametrize("kind", ["gz", "zst", "bz2", "xz"])
@pytest.mark.parametrize("named", [True, False])
def test_compressed_files_are_read_whatever_they_are_called(tmp_path, kind, named):
    path = tmp_path / (f"rows.jsonl.{kind}" if named else "rows.jsonl")
    path.write_bytes(compressed(kind, LINES.encode()))
    assert rows_of(path) == ROWS


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        LINES.rstrip("\n"),
        LINES.replace("\n", "\r\n"),
        "\n \n" + LINES.replace("\n", "\n\n"),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps({"version": 1, "data": ROWS}, indent=1),
        json.dumps({"data": ROWS}),
    ],
    ids=["lines", "no last newline", "CR LF", "blank lines", "array", "indented", "object of rows", "one line object"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_json_in_all_its_layouts(tmp_path, text, encoding, name):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    assert rows_of(path) == ROWS


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_no_separator_but_the_newline_ends_a_line(tmp_path, separator):
    path = tmp_path / "rows.jsonl"
    raw = json.dumps({"prompt": f"one{separator}two"}, ensure_ascii=separator < " ")
    path.write_text(f"{raw}\n{raw}\n", encoding="utf-8")
    assert rows_of(path) == [{"prompt": f"one{separator}two"}] * 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.csv", 'prompt,answer\n"Say ""hi"",\nthen go",3\nplain,\n'),
        ("rows.csv", 'prompt;answer\n"Say ""hi"",\nthen go";3\nplain;\n'),
        ("rows.tsv", 'prompt\tanswer\n"Say ""hi"",\nthen go"\t3\n\nplain\t\n'),
        ("rows.csv", '\ufeffprompt,answer\r\n"Say ""hi"",\nthen go",3\r\nplain,\r\n'),
    ],
)
def test_tables_of_text(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert rows_of(path) == [{"prompt": 'Say "hi",\nthen go', "answer": "3"}, {"prompt": "plain", "answer": ""}]


def test_a_short_line_of_a_table_has_nulls(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c\n1\n")
    assert rows_of(path) == [{"a": "1", "b": None, "c": None}]


def test_cells_of_a_table_may_be_long(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(f"a\n{'x' * 300_000}\n")
    assert len(rows_of(path)[0]["a"]) == 300_000


def test_parquet_is_told_by_content_and_keeps_types(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.bin")
    assert rows_of(tmp_path / "rows.bin") == ROWS
    assert [place.rpartition(" ")[2] for place, _ in read_rows(str(tmp_path / "rows.bin"))] == ["1", "2", "3"]


def test_patterns_and_folders_give_their_files_by_name(tmp_path):
    folder = tmp_path / "data" / "deep"
    folder.mkdir(parents=True)
    for number in (2, 0, 1):
        (folder / f"part-{number:05}-of-00003.jsonl").write_text(json.dumps(ROWS[number]) + "\n")
    for name in ("README.md", ".hidden.jsonl", "dataset_info.json", "_SUCCESS"):
        (folder / name).write_text("nothing to read")
    assert rows_of(tmp_path / "data") == ROWS
    assert rows_of(tmp_path / "data" / "**" / "*.jsonl") == ROWS
    assert rows_of(folder / "part-0000[01]*") == ROWS[:2]


def test_columns_without_a_name_may_be_empty_or_one(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b,,\n1,2,,\n")
    assert rows_of(tmp_path / "rows.csv") == [{"a": "1", "b": "2", "": ""}]
    (tmp_path / "long.csv").write_text('"a\nb",c\n1,2\n')
    assert rows_of(tmp_path / "long.csv") == [{"a\nb": "1", "c": "2"}]
    (tmp_path / "index.csv").write_text(",a\n0,1\n")
    assert rows_of(tmp_path / "index.csv") == [{"": "0", "a": "1"}]


def test_a_table_with_a_column_twice_is_refused(tmp_path):
    table = pyarrow.table([[1], [2]], names=["a", "a"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"it has the column 'a' twice"):
        rows_of(tmp_path / "rows.parquet")


def test_files_that_a_folder_leaves_out_are_said(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("train-0.jsonl", "test-0.jsonl", "more/part.jsonl", "notes.txt", "README.md", "_SUCCESS"):
        (tmp_path / name).write_text(json.dumps(ROWS[0]) + "\n")
    notes = []
    assert rows_of(tmp_path, note=notes.append) == ROWS[:1]
    assert notes == [
        "2 files are left out, named after other splits than 'train', or after none: more/part.jsonl ...",
        "1 file is left out, of no known format: notes.txt",
    ]


def test_shards_behind_links_are_read_once(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "back").symlink_to(tmp_path / "data")
    assert rows_of(tmp_path / "data") == ROWS[:1]


def test_of_a_folder_with_several_splits_one_is_read(tmp_path):
    for name, row in (("train-00000.jsonl", ROWS[0]), ("test-00000.jsonl", ROWS[1]), ("val.jsonl", ROWS[2])):
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    assert rows_of(tmp_path) == ROWS[:1]
    assert rows_of(tmp_path, split="test") == ROWS[1:2]
    assert rows_of(tmp_path, split="validation[:10]") == ROWS[2:]
    with pytest.raises(InputError, match=r"holds no split 'gold'; it has: test, train, validation$"):
        rows_of(tmp_path, split="gold")
    (tmp_path / "val.jsonl").unlink()
    (tmp_path / "test-00000.jsonl").unlink()
    assert rows_of(tmp_path, split="test") == ROWS[:1]  # Only one kind of file: all of them.


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"prompt": "caf\xe9"}\n', r"path: cannot read .*rows\.jsonl \('utf-8' codec"),
        ("rows.jsonl", gzip.compress(LINES.encode(), mtime=0)[:-20], r"path: cannot read .*\(Compressed file ended"),
        ("rows.jsonl", gzip.compress(LINES.encode(), mtime=0)[:40] + b"xxxx", r"path: cannot read "),
        ("rows.jsonl", compressed("zst", LINES.encode())[:-8] + b"12345678", r"path: cannot read "),
        ("rows.parquet", b"PAR1nonsense", r"path: cannot read .*; give a readable Parquet file"),
        ("rows.json", b'[{"a": 1},', r"path: .*rows\.json: not valid JSON \(.* at line 1\); mend the file"),
        ("rows.json", b'[{"a": 1}, 2]', r"path: .*rows\.json item 2: a int, not an object"),
        ("rows.json", b'{\n"a": [{"b": 1}], "c": [{"b": 1}]}', r"one object that holds 2 lists of rows \(a, c\)"),
        ("rows.csv", b"a,b\n1,2\n1,2,3\n", r"line 3 has 3 cells for 2 columns"),
        (
            "rows.csv",
            b'a,b\n1,"2\n',
            r"path: cannot read .*line 2: a cell that begins .*; unexpected end of data in line 2",
        ),
        (
            "rows.tsv",
            b'a\tb\n1\t2\n"3\t4\n5\t6\n7\t8\n',
            r"line 3: a cell that begins with a quote does not end with one",
        ),
        ("rows.tsv", b'a\tb\n"Yes" he said\t4\n', r"line 2: a cell that begins with a quote does not end with one"),
        ("rows.csv", b'a,b\n"x\ny",2\n1,2,3\n', r"line 4 has 3 cells for 2 columns"),
        ("rows.jsonl", b"[" * 100_000, r"not valid JSON"),
        (
            "rows.jsonl",
            b'{"a": 1}\n{"a": 1, "b": 2, "a": 3}',
            r"line 2: an object has 'a' twice; leave one of them out",
        ),
        ("rows.jsonl", b'{"a": [{"b": {"c": 1, "c": 1}}]}', r"line 1: an object has 'c' twice"),
        ("rows.json", b'[{"a": 1, "a": 1}]', r"rows\.json: an object has 'a' twice"),
        ("rows.csv", b"a,b,a\n1,2,3\n", r"the header has 'a' twice; rename one of them"),
        ("rows.tsv", b"a\ta\n1\t2\n", r"the header has 'a' twice"),
        ("rows.csv", b"a,,\n1,2,3\n", r"line 2: '2' stands below no name"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        rows_of(path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_one_line(tmp_path):
    for path, message in (
        (tmp_path / "no.jsonl", "cannot read .*No such file"),
        (tmp_path / "*.jsonl", "no file matches"),
        (tmp_path, "holds no data file; known are .jsonl"),
    ):
        with pytest.raises(InputError, match=f"^where: .*{message}"):
            rows_of(path, field="where")


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path):
    (tmp_path / "rows[1].jsonl").write_text(LINES)
    assert data_files(str(tmp_path / "rows[1].jsonl")) == [tmp_path / "rows[1].jsonl"]


DIGITS = "9" * 5000
DAMAGED = {
    "cut.jsonl.gz": gzip.compress(LINES.encode())[:-20],
    "flipped.jsonl.gz": bytes(
        byte ^ (8 if place == 20 else 0) for place, byte in enumerate(gzip.compress(LINES.encode()))
    ),
    "cut.jsonl.bz2": bz2.compress(LINES.encode())[:-9],
    "cut.jsonl.xz": lzma.compress(LINES.encode())[:-9],
    "garbled.jsonl.zst": b"\x28\xb5\x2f\xfd" + b"123456789",
    "garbled.parquet": b"PAR1" + bytes(100),
    "empty.parquet": b"",
    "deep.jsonl": b"[" * 100_000,
    "deep_later.jsonl": LINES.encode() + b'{"a":' * 100_000,
    "deep.json": b'{"a":' * 100_000,
    "digits.jsonl": f'{{"prompt": "x", "answer": {DIGITS}}}'.encode(),
    "digits_later.jsonl": (LINES + f'{{"prompt": "x", "answer": {DIGITS}}}').encode(),
    "digits.json": f'[{{"answer": {DIGITS}}}]'.encode(),
    "latin.jsonl": '{"prompt": "é"}'.encode("latin1"),
    "zeros.jsonl": bytes(300),
    "pointer.jsonl": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "pointer.parquet": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line_with_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    with pytest.raises(InputError) as caught:
        rows_of(path, field="data.train[0].path")
    assert str(caught.value).startswith("data.train[0].path: ")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ("git lfs pull" in str(caught.value)) == name.startswith("pointer")
    if name.endswith("_later.jsonl"):
        assert "line 4" in str(caught.value)


def test_what_datasets_saves_to_disk_is_read(tmp_path):
    import datasets

    rows = [{"question": f"What is {i}?", "answer": str(i)} for i in range(5)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "cache-1.arrow").write_bytes(b"of its own work")
    splits = datasets.DatasetDict(train=datasets.Dataset.from_list(rows[:3]), test=datasets.Dataset.from_list(rows[3:]))
    splits.save_to_disk(tmp_path / "two")
    assert [row for _, row in read_rows(str(tmp_path / "one"))] == rows
    assert [row for _, row in read_rows(str(tmp_path / "two"))] == rows[:3]
    assert [row for _, row in read_rows(str(tmp_path / "two"), split="test")] == rows[3:]


def test_feather_is_read_and_a_broken_one_is_one_line(tmp_path):
    import pyarrow
    import pyarrow.feather

    rows = [{"question": "What?", "answer": "5"}]
    pyarrow.feather.write_feather(pyarrow.Table.from_pylist(rows), str(tmp_path / "a.feather"))
    assert [row for _, row in read_rows(str(tmp_path / "a.feather"))] == rows
    whole = (tmp_path / "a.feather").read_bytes()
    for name, content in (("b.feather", whole[: len(whole) // 2]), ("c.arrow", b"no arrow at all"), ("d.arrow", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"^path: cannot read .*{name} \(.*\); give a readable Arrow file$"):
            list(read_rows(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("name", "content"), [("a.xlsx", b"PK\x03\x04\x14\x00\x06\x00"), ("a.pkl", b"\x80\x04\x95\x10\x00\x00\x00")]
)
def test_what_is_no_text_is_refused_with_the_formats(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"\(it is no text\); give a readable \.jsonl or .* or \.parquet or .* file"):
        list(read_rows(str(tmp_path / name)))


@pytest.mark.parametrize("path", ["https://host.invalid/a.jsonl", "s3://bucket/a.parquet", "hf://datasets/a/b"])
def test_an_address_is_no_file(path):
    with pytest.raises(InputError, match=r"^path: .* is an address, and files are read from disk; download it"):
        list(read_rows(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a"])
def test_a_pipe_or_a_device_is_no_file(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (tmp_path / f"{name}.jsonl").symlink_to("/dev/zero")
    for path in (tmp_path / name, tmp_path / f"{name}.jsonl"):
        with pytest.raises(InputError, match=r"path: cannot read .* \(a pipe or a device: write what comes from it"):
            list(read_rows(str(path)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_line_has_a_bound(tmp_path, monkeypatch, name):
    """Some kilobytes of a compressed file may hold gigabytes."""
    monkeypatch.setattr("evolpo.rollout.data.files.LONGEST_LINE", 1000)
    lines = ['{"prompt": "p"}'] if name == "a.jsonl" else ["prompt,answer", "p,1"]
    (tmp_path / name).write_bytes(gzip.compress("\n".join([*lines, " " * 10_000]).encode()))
    with pytest.raises(InputError, match=rf"path: cannot read .*{name} \(line {len(lines) + 1} is longer than"):
        list(read_rows(str(tmp_path / name)))
    (tmp_path / name).write_bytes(gzip.compress(b" " * 10_000))
    with pytest.raises(InputError, match="line 1 is longer than"):
        list(read_rows(str(tmp_path / name)))


def test_an_array_on_a_long_line_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("evolpo.rollout.data.files.LONGEST_LINE", 1000)
    rows = [{"prompt": f"question {number}"} for number in range(200)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert [row for _, row in read_rows(str(tmp_path / "a.json"))] == rows
