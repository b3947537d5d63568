import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolpo import InputError
from evolpo.rl.logs.files import replacing
from evolpo.rl.logs.metrics import LoggerConfig, MetricsWriter, read_metrics
from evolpo.rl.logs.progress import Progress
from evolpo.rl.logs.samples import READ_AT_ONCE, SampleRow, SampleTable, read_sample_columns, read_samples

FILES_ONLY = LoggerConfig(tensorboard=False)
FIGURES = {
    "reward/mean": 0.5312,
    "accuracy": 0.412,
    "response/tokens_mean": 37.4,
    "kl": 0.00213,
    "clip/low": 0.01,
    "clip/high": 0.021,
    "tokens_per_s": 1250.4,
    "seconds/step": 10.0,
}


def row(step: int, **changes) -> SampleRow:
    fields = {
        "step": step,
        "prompt_id": f"sum-{step}",
        "difficulty": "2",
        "prompt": "1 + 2 = ?",
        "answer": "3",
        "response": "Add. 三。\n",
        "reward": 1.0,
        "advantage": 0.7,
        "breakdown": {"accuracy": 1.0, "format": None},
        "sentences": [("Add. ", 2, 1.01), ("三。\n", 3, None)],
        "tokens": 5,
        "finish_reason": "stop",
        "logprob_gap": 0.01,
    }
    return SampleRow(**(fields | changes))


def steps_of(run: Path) -> list[int]:
    return [record["step"] for record in read_metrics(run / "metrics.jsonl")]


def read_terminal(terminal: int) -> str:
    """What is written to a terminal until its last writer closes it, which Linux reports as an error."""
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as file, contextlib.suppress(OSError):
        while part := file.read(4096):
            shown += part
    return shown.decode()


def test_logged_metrics_come_back(tmp_path):
    with MetricsWriter(tmp_path, FILES_ONLY) as writer:
        writer.log(0, {"eval/accuracy": 0.25})
        writer.log(1, {"reward/mean": 0.5, "groups/total": 8})
    start, first = read_metrics(tmp_path / "metrics.jsonl")
    assert first.pop("time") >= start.pop("time") > 1.7e9
    assert start == {"step": 0, "eval/accuracy": 0.25}
    assert first == {"step": 1, "reward/mean": 0.5, "groups/total": 8}
    assert isinstance(first["groups/total"], int)


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    with MetricsWriter(tmp_path, FILES_ONLY) as writer:
        writer.log(1, {"loss": 1.0})
        assert steps_of(tmp_path) == [1]


def test_figures_that_are_not_finite_stay_valid_json(tmp_path):
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    with MetricsWriter(tmp_path, FILES_ONLY) as writer:
        writer.log(1, {"loss": float("nan"), "grad_norm": float("inf"), "kl": 0.1})
    record = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert record["loss"] is None
    assert record["grad_norm"] is None
    assert record["kl"] == 0.1
    assert record["non_finite"] == ["loss", "grad_norm"]


@given(cut=st.integers(0, 10_000), resume_step=st.integers(0, 7))
def test_a_file_cut_anywhere_resumes_with_the_whole_lines_up_to_the_checkpoint(cut, resume_step):
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        with MetricsWriter(run, FILES_ONLY) as writer:
            for step in range(6):
                writer.log(step, {"loss": step / 3, "kl": float("nan")})
        path = run / "metrics.jsonl"
        content = path.read_bytes()
        cut %= len(content) + 1
        path.write_bytes(content[:cut])
        # The brace is the last byte of a line's JSON: a line without its newline is whole.
        whole = content[:cut].count(b"}")
        assert steps_of(run) == list(range(whole))
        with MetricsWriter(run, FILES_ONLY, resume_step) as writer:
            writer.log(99, {})
        assert steps_of(run) == [step for step in range(whole) if step <= resume_step] + [99]


def test_a_new_run_starts_an_empty_log(tmp_path):
    for _ in range(2):
        with MetricsWriter(tmp_path, FILES_ONLY) as writer:
            writer.log(1, {"loss": 1.0})
    assert steps_of(tmp_path) == [1]


def test_a_broken_line_inside_the_file_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_metrics(path)


def test_a_process_killed_while_it_logs_leaves_a_log_to_go_on_from(tmp_path):
    code = f"""
import itertools
from pathlib import Path
from evolpo.rl.logs.metrics import LoggerConfig, MetricsWriter
writer = MetricsWriter(Path({str(tmp_path)!r}), LoggerConfig(tensorboard=False))
for step in itertools.count():
    writer.log(step, {{f"figure/{{i}}": i / 7 for i in range(200)}})
    if step == 5:
        print("ready", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    steps = steps_of(tmp_path)
    assert steps == list(range(len(steps)))
    assert len(steps) >= 6
    with MetricsWriter(tmp_path, FILES_ONLY, resume_step=3) as writer:
        writer.log(4, {})
    assert steps_of(tmp_path) == [0, 1, 2, 3, 4]


def test_tensorboard_shows_a_step_done_again_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsWriter(tmp_path, LoggerConfig()) as writer:
        for step in range(5):
            writer.log(step, {"reward/mean": 0.0})
    with MetricsWriter(tmp_path, LoggerConfig(), resume_step=2) as writer:
        writer.log(3, {"reward/mean": 1.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("reward/mean")
    assert [(event.step, event.value) for event in events] == [(0, 0.0), (1, 0.0), (2, 0.0), (3, 1.0)]


def test_wandb_that_is_missing_is_the_users_to_mend(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"^logger\.wandb: .*pip install 'evolpo\[wandb\]'$"):
        MetricsWriter(tmp_path, LoggerConfig(tensorboard=False, wandb=True))


def test_wandb_gets_the_metrics(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "config.yaml").write_text("steps: 4\n")
    with MetricsWriter(tmp_path, LoggerConfig(tensorboard=False, wandb=True)) as writer:
        writer.log(1, {"reward/mean": 0.5})
        assert writer._wandb.config["steps"] == 4
        assert writer._wandb.summary["reward/mean"] == 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples_per_step": -1}, r"^logger\.samples_per_step: -1 is negative"),
        ({"wandb": True, "wandb_project": ""}, r"^logger\.wandb_project: empty"),
    ],
)
def test_a_mistaken_configuration_is_named(fields, message):
    with pytest.raises(InputError, match=message):
        LoggerConfig(**fields)


def test_import_is_light():
    heavy = "torch", "pyarrow", "rich", "numpy"
    code = (
        f"import sys, evolpo.rl.logs.progress, evolpo.rl.logs.samples; print([m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_samples_come_back(tmp_path):
    rows = [row(1), row(1, reward=None, answer=None, breakdown={}, sentences=[]), row(2)]
    table = SampleTable(tmp_path)
    table.add(rows[:2])
    table.save()
    table.add(rows[2:])
    table.save()
    assert read_samples(tmp_path / "samples.parquet") == rows
    assert [file.name for file in tmp_path.iterdir()] == ["samples.parquet"]


@pytest.mark.parametrize("places", [[0], [3, 99, 100, 101, 250], [199, 200], [299], list(range(300)), []])
def test_some_samples_are_those_at_their_places(tmp_path, places):
    rows = [row(step, reward=float(step)) for step in range(300)]
    table = SampleTable(tmp_path)
    for part in (rows[:150], rows[150:]):
        table.add(part)
        table.save()
    assert read_samples(tmp_path / "samples.parquet", places) == [rows[place] for place in places]


def test_texts_of_other_parts_are_not_read(tmp_path, monkeypatch):
    table = SampleTable(tmp_path)
    table.add([row(step) for step in range(5 * READ_AT_ONCE)])
    table.save()
    path = tmp_path / "samples.parquet"
    whole = bytearray(path.read_bytes())
    begin = pyarrow.parquet.ParquetFile(path).metadata.row_group(3).column(0).dictionary_page_offset
    whole[begin : begin + 50] = bytes(50)  # only whoever reads the fourth part notices
    path.write_bytes(whole)
    assert [one.step for one in read_samples(path, [7, 4 * READ_AT_ONCE])] == [7, 4 * READ_AT_ONCE]
    with pytest.raises(OSError, match=r".+"):
        read_samples(path, [3 * READ_AT_ONCE])


def test_some_columns_come_alone(tmp_path):
    table = SampleTable(tmp_path)
    table.add([row(1), row(2, reward=None)])
    table.save()
    columns = read_sample_columns(tmp_path / "samples.parquet", ["step", "reward"])
    assert columns == {"step": [1, 2], "reward": [row(1).reward, None]}
    assert read_sample_columns(tmp_path / "none.parquet", ["step"]) == {"step": []}


def test_samples_of_steps_to_be_done_again_are_dropped(tmp_path):
    table = SampleTable(tmp_path)
    table.add([row(step) for step in (1, 2, 3, 4)])
    table.save()
    table = SampleTable(tmp_path, resume_step=2)
    table.add([row(3, response="again")])
    table.save()
    assert read_samples(tmp_path / "samples.parquet") == [row(1), row(2), row(3, response="again")]


def test_a_missing_file_has_no_samples_and_no_metrics(tmp_path):
    assert read_samples(tmp_path / "samples.parquet") == []
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail_halfway():
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_progress_off_a_terminal_is_a_line_a_step(capsys):
    with Progress(3, LoggerConfig()) as progress:
        progress.note("starting vLLM [1/2]")
        progress.phase("rollout")
        progress.step(0, {"eval/accuracy": 0.25})
        progress.step(1, FIGURES)
        progress.step(3, {})
    captured = capsys.readouterr()
    note, start, first, last = captured.err.splitlines()
    assert captured.out == ""
    assert note == "starting vLLM [1/2]"
    assert start == "step 0/3  held-out 25.0% (step 0)  elapsed 0:00"
    assert first == (
        "step 1/3  reward 0.531  accuracy 41.2%  length 37  kl 0.0021  clipped 3.1%  1,250 tokens/s"
        "  held-out 25.0% (step 0)  left 0:20  elapsed 0:00"
    )
    assert last == "step 3/3  held-out 25.0% (step 0)  elapsed 0:00"


@pytest.mark.parametrize(("config", "rank"), [(LoggerConfig(), 1), (LoggerConfig(progress=False), 0)])
def test_progress_is_silent_on_other_ranks_and_when_turned_off(capsys, config, rank):
    with Progress(3, config, rank) as progress:
        progress.note("starting")
        progress.step(1, FIGURES)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_live_and_leaves_stdout_alone():
    code = f"""
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress
with Progress(40, LoggerConfig(), start=10) as progress:
    progress.phase("rollout")
    print("result")
    progress.note("a [note]")
    progress.step(12, {FIGURES!r} | {{"eval/accuracy": 0.25}})
"""
    terminal, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "160", "NO_COLOR": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=slave, env=environment)
    os.close(slave)
    shown = read_terminal(terminal)
    stdout, _ = process.communicate()
    assert process.returncode == 0
    assert stdout == b"result\n"
    for text in (
        "12/40",
        "rollout",
        "a [note]",
        "reward 0.531",
        "1,250 tokens/s",
        "left 4:40",
        "held-out 25.0% (step 12)",
    ):
        assert text in shown
