"""Every file of a checkpoint and of a run's logs: whatever happens to it is noticed, named, and there is a way out."""

import json
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from evolpo import InputError
from evolpo.model.digests import STATE, damage, file_sums
from evolpo.model.files import DamagedError, Stored, read_header, read_object
from evolpo.rl.checkpoint import check_whole, list_checkpoints, write_checkpoint
from evolpo.rl.logs.metrics import LoggerConfig, MetricsWriter, check_metrics
from evolpo.rl.logs.samples import SampleRow, SampleTable, check_samples, read_samples

NAMES = ["config.json", "tokenizer.json", "model.safetensors", "optimizer/rank_0.safetensors", STATE]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


def write_files(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8}))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    (folder / "optimizer").mkdir()
    for name in ("model.safetensors", "optimizer/rank_0.safetensors"):
        save_file({"weight": torch.arange(100.0)}, folder / name)


def write_run(run: Path) -> None:
    for step in (2, 4, 6):
        write_checkpoint(run, step, {"step": step, "nested": {"1": [1.5, (2, 3)]}}, write_files, keep=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


def newest(run: Path) -> Path:
    return list_checkpoints(run)[-1][1]


def message(checkpoint: Path, **options: bool) -> str:
    with pytest.raises(InputError) as caught:
        check_whole(checkpoint, "resume", "resume={}".format, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 10**9), st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_named_with_the_step_before(run: Path, name: str, place: int, bit: int) -> None:
    file = newest(run) / name
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[place % len(content)] ^= 1 << bit
    file.write_bytes(flipped)
    try:
        text = message(newest(run))
    finally:
        file.write_bytes(content)
    assert text.startswith(f"resume: {file} ")
    assert text.endswith(f"resume={run}/checkpoints/step_4")
    assert damage(newest(run)) is None


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 10**9))
def test_a_file_cut_anywhere_is_named(run: Path, name: str, place: int) -> None:
    file = newest(run) / name
    content = file.read_bytes()
    file.write_bytes(content[: place % len(content)])
    try:
        assert str(file) in message(newest(run))
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["missing", "empty", "folder", "pointer", "longer", "garbled"])
def test_what_else_can_happen_to_a_file(tmp_path: Path, name: str, kind: str) -> None:
    write_run(tmp_path)
    file = tmp_path / "checkpoints" / "step_6" / name
    content = file.read_bytes()
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind != "missing":
        spoilt = {"empty": b"", "pointer": LFS, "longer": content + b"x", "garbled": bytes(range(256)) * 9}
        file.write_bytes(spoilt[kind])
    text = message(file.parents[len(Path(name).parts) - 1])
    assert str(file) in text
    assert text.endswith(f"resume={tmp_path}/checkpoints/step_4")


def test_the_way_out_is_the_newest_older_one_that_is_whole(tmp_path: Path) -> None:
    write_run(tmp_path)
    folders = dict(list_checkpoints(tmp_path))
    for step in (6, 4):
        (folders[step] / "model.safetensors").unlink()
    assert message(folders[6]).endswith("resume=" + str(folders[2]))
    assert message(folders[4]).endswith("resume=" + str(folders[2]))
    (folders[2] / STATE).write_text("{}")
    assert "no older checkpoint of the run is whole; restore the file from a copy" in message(folders[6])


def test_without_its_optimizer_a_checkpoint_is_a_model(tmp_path: Path) -> None:
    write_run(tmp_path)
    file = newest(tmp_path) / "optimizer" / "rank_0.safetensors"
    file.unlink()
    check_whole(newest(tmp_path), "checkpoints", "{}".format, optimizer=False)
    assert "rank_0.safetensors is missing" in message(newest(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_without_sums_is_read_as_far_as_it_holds_together(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "checkpoints" / "step_3"
    folder.mkdir(parents=True)
    write_files(folder)
    (folder / STATE).write_text(json.dumps({"step": 3}))
    assert damage(folder) is None
    file = folder / name
    file.write_bytes(file.read_bytes()[:-1])
    assert str(file) in message(folder)


@given(st.binary(max_size=200))
def test_what_is_no_header_is_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("header") / "x.safetensors"
    for start in (b"", len(content).to_bytes(8, "little"), (2**63).to_bytes(8, "little")):
        file.write_bytes(start + content)
        with pytest.raises(DamagedError) as caught:
            read_header(file)
        assert "\n" not in str(caught.value)


HEADERS = [
    {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
    {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}},
    {"a": [1]},
    [1],
]


@pytest.mark.parametrize("header", HEADERS)
def test_headers_that_do_not_hold_together(tmp_path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(DamagedError):
        read_header(file)


def test_a_header_tells_names_types_and_shapes(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(())}, file, {"format": "pt"})
    assert read_header(file) == {"a": Stored("BF16", (2, 3)), "b": Stored("F32", ())}


JSONS = [b"[" * 100_000, b"9" * 5000, b"\xff\xfe\x00", b"[1]", b"", b'{"a": 1}}', LFS]


@pytest.mark.parametrize("content", JSONS, ids=range(len(JSONS)))
def test_json_that_is_none_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(DamagedError) as caught:
        read_object(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


# -- the logs -------------------------------------------------------------------------------------------------------


def test_what_was_logged_before_a_checkpoint_must_still_be_there(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with MetricsWriter(tmp_path, LoggerConfig(tensorboard=False)) as writer:
        writer.log(1, {"loss": 1.25, "count": 3})
        written = writer.written()
        writer.log(2, {"loss": float("nan")})
    content = file.read_bytes()
    check_metrics(file, written)
    file.write_bytes(content[:-3])  # what a kill leaves of a later step
    check_metrics(file, written)
    for spoilt in (content[: written["bytes"] - 1], content.replace(b"1.25", b"1.35"), b"", b"\xff" * 300):
        file.write_bytes(spoilt)
        with pytest.raises(DamagedError, match=r"metrics\.jsonl is "):
            check_metrics(file, written)
    file.write_bytes(content)
    with MetricsWriter(tmp_path, LoggerConfig(tensorboard=False), resume_step=1) as again:
        assert again.written() == written
    file.unlink()
    check_metrics(file, written)


ROW = SampleRow(1, "p", "", "1 + 1", "2", "It is 2.", 1.0, 0.5, {"math": 1.0}, [("It is 2.", 4, 1.0)], 4, "stop", 0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = SampleTable(tmp_path_factory.mktemp("samples"))
    table.add([ROW] * 50)
    table.save()
    return table._path


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 7))
def test_a_flipped_bit_in_the_samples_changes_no_row_unnoticed(samples: Path, place: int, bit: int) -> None:
    content = samples.read_bytes()
    check_samples(samples)
    flipped = bytearray(content)
    flipped[place % len(content)] ^= 1 << bit
    samples.write_bytes(flipped)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    try:
        check_samples(samples)
        # Headers of pages, statistics and the like have no sums.
        assert place % len(content) >= footer or read_samples(samples) == [ROW] * 50
    except DamagedError:
        pass
    finally:
        samples.write_bytes(content)


# -- what it costs --------------------------------------------------------------------------------------------------


def test_summing_a_file_is_a_matter_of_moments(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(50_000_000))
    began = time.process_time()
    file_sums(tmp_path, ["model.safetensors"])
    assert time.process_time() - began < 1.0  # 0.03 s with the processor's instructions, 0.3 s without
