"""`evolpo score`: files in, table, histogram and scores out; one line for every mistake."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from evolpo import InputError
from evolpo.recipes.runs.samples import read_samples
from evolpo.recipes.score import ScoreConfig, score
from evolpo.rewards.service.workers import worker_count
from evolpo.rewards.stack import RewardError

PLUGINS = """
import asyncio
from evolpo.rewards import Score, group_reward, sample_reward

@sample_reward
def number(sample):
    if sample.text == "bad":
        return Score.model_fail("no number")
    return float(sample.text)

@sample_reward
async def slow(sample):
    await asyncio.sleep(0.2)
    return 1.0

@group_reward
def share_of_group(samples):
    assert len({sample.prompt for sample in samples}) == 1
    return [1 / len(samples)] * len(samples)

class Away:
    name = "away"
    scope = "sample"
    async def score(self, samples):
        raise ConnectionError("judge is away")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "score_plugins.py").write_text(PLUGINS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def write(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(*texts: str, **columns: object) -> list[dict[str, object]]:
    return [{"prompt": "p", "response": text, **columns} for text in texts]


def test_table_histogram_and_reasons(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(folder / "a.jsonl", *rows("0", "1", "1", "1", "bad", "x", "nan"))
    scored = score(ScoreConfig(use="score_plugins:number", file=file))
    assert scored.values == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert [one.status for one in scored.scores] == ["ok"] * 4 + ["model_fail"] + ["infra_error"] * 2
    out = capsys.readouterr().out
    lines = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in out.splitlines() if "│" in line}
    assert lines["lines"].startswith("7 in ")
    assert lines["mean, std"] == "0.6000, 0.4899"
    assert lines["p5, p50, p95"] == "0.0000, 1.0000, 1.0000"
    assert lines["ok"] == "4 (57.14%)"
    assert lines["infra_error"] == "2 (28.57%)"
    assert lines["model_fail"] == "1 (14.29%)"
    bars = [line for line in out.splitlines() if "█" in line]
    assert [(bar.split()[0], bar.split()[-1], bar.count("█")) for bar in bars] == [("0", "2", 26), ("1", "3", 40)]
    assert "model_fail: no number" in out
    assert "could not convert string to float: 'x'" in out


def test_many_values_are_binned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score(ScoreConfig(use="score_plugins:number", file=write(folder / "a.jsonl", *rows(*map(str, range(100))))))
    bars = [line.split() for line in capsys.readouterr().out.splitlines() if "█" in line]
    assert len(bars) == 10
    assert {bar[-1] for bar in bars} == {"10"}
    assert bars[0][:3] == ["0", "to", "9.9"]


def test_output_has_a_line_for_every_line(folder: Path) -> None:
    file = write(folder / "a.jsonl", *rows("1", "bad", "x"))
    score(ScoreConfig(use="score_plugins:number", file=file, output=str(folder / "new" / "out.jsonl")))
    written = [json.loads(line) for line in (folder / "new" / "out.jsonl").read_text().splitlines()]
    assert [(line["value"], line["status"]) for line in written] == [
        (1.0, "ok"),
        (0.0, "model_fail"),
        (None, "infra_error"),
    ]
    assert written[1]["error"] == "no number"


def test_installed_reward_with_options_from_all_columns(folder: Path) -> None:
    file = write(
        folder / "a.jsonl",
        {"prompt": "1 + 1", "text": r"\boxed{2}", "answer": 2},
        {"prompt": "1 + 1", "text": "The answer is 2.", "answer": "2", "extra": 1, "metadata": {"more": 2}},
    )
    samples, groups = read_samples(Path(file))
    assert groups == ["1 + 1", "1 + 1"]
    assert samples[0].answer == 2
    assert samples[1].metadata == {"extra": 1, "more": 2}
    assert samples[1].token_count == 4
    assert score(ScoreConfig(use="math", file=file, timeout_s=60.0)).values == [1.0, 0.0]
    assert score(ScoreConfig(use="math", file=file, timeout_s=60.0, options={"tolerant": True})).values == [1.0, 1.0]


def test_lines_as_they_are(folder: Path) -> None:
    """Answers keep their type; line ends of Unicode inside a text are none; token ids are read."""
    lines: list[dict[str, object]] = [
        {"prompt": "p", "response": "one\u2028two\x85three", "answer": ["a", 1], "token_ids": [5, 6]},
        {"prompt": "p", "response": "r", "answer": 2, "truncated": None, "failures": [{"component": "c"}]},
    ]
    text = "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in lines)
    (folder / "a.jsonl").write_bytes(text.encode())
    first, second = read_samples(folder / "a.jsonl")[0]
    assert (first.text, first.answer, first.token_ids) == ("one\u2028two\x85three", ["a", 1], (5, 6))
    assert (first.token_count, second.answer, second.metadata) == (2, 2, {})


def turns(*texts: str) -> list[dict[str, str]]:
    roles = ("system", "user", "assistant", "user", "assistant")
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


@pytest.mark.parametrize(
    ("row", "prompt", "response"),
    [
        ({"prompt": "p", "completion": "r"}, "p", "r"),
        ({"prompt": "p", "output": "r"}, "p", "r"),
        ({"prompt": turns("s", "p"), "completion": turns("", "", "r")[2:]}, "p", "r"),
        ({"messages": turns("s", "p", "r")}, "p", "r"),
        ({"messages": turns("s", "p", "r"), "response": "other"}, "p", "other"),
        ({"messages": turns("s", "p", "q", "p2", "r")}, "user: p\n\nassistant: q\n\nuser: p2", "r"),
        ({"prompt": json.dumps(turns("s", "p")), "text": "r"}, "p", "r"),
        ({"prompt": "p", "response": json.dumps(turns("s", "p", "r"))}, "p", json.dumps(turns("s", "p", "r"))),
    ],
)
def test_texts_and_conversations(folder: Path, row: dict[str, object], prompt: str, response: str) -> None:
    [sample], _ = read_samples(Path(write(folder / "a.jsonl", row | {"level": 3})))
    assert (sample.prompt, sample.text, sample.metadata) == (prompt, response, {"level": 3})


def test_groups(folder: Path) -> None:
    by_prompt = [{"prompt": prompt, "response": "r"} for prompt in "aabbb"]
    scored = score(ScoreConfig(use="score_plugins:share_of_group", file=write(folder / "a.jsonl", *by_prompt)))
    assert scored.values == [1 / 2] * 2 + [1 / 3] * 3
    by_column = [{"prompt": "p", "response": "r", "group": group} for group in [1, 2, 1, 1, 2]]
    scored = score(ScoreConfig(use="score_plugins:share_of_group", file=write(folder / "a.jsonl", *by_column)))
    assert scored.values == [1 / 3, 1 / 2, 1 / 3, 1 / 3, 1 / 2]


def test_waiting_is_done_together(folder: Path) -> None:
    started = time.perf_counter()
    assert (
        len(score(ScoreConfig(use="score_plugins:slow", file=write(folder / "a.jsonl", *rows(*"r" * 64)))).values) == 64
    )
    assert time.perf_counter() - started < 6.0  # One after the other it would take 12.8 s.


def test_nothing_scored_is_said_after_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RewardError, match=r"away could score none of 2 lines; first: ConnectionError: judge is away"):
        score(ScoreConfig(use="score_plugins:Away", file=write(folder / "a.jsonl", *rows("r", "r"))))
    assert "2 (100.00%)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"file: cannot read .*a\.jsonl \(No such file"),
        ("", r"file: .*a\.jsonl has no lines"),
        ('{"prompt": "p", "response": "r"}\n\n{"prompt"\n', r"line 3: not valid JSON \(Expecting ':'"),
        (
            '{"messages": [{"role": "user", "content": "p"}]}\n',
            "line 1: 'response' is missing or no text; it has prompt",
        ),
        ('{"prompt": "p", "completion": [1]}\n', "line 1: 'response' is missing or no text"),
        ("[1]\n", "item 1: a int, not an object"),
        ('{"prompt": "p", "answer": "r"}\n', "line 1: 'response' is missing or no text; it has prompt, answer"),
        ('{"question": "p", "response": "r"}\n', "line 1: 'prompt' is missing or no text"),
        ('{"prompt": "p", "response": "r", "metadata": 3}\n', "line 1: 'metadata' is 3; give an object"),
        ('{"prompt": "p", "response": "r", "token_count": "3"}\n', "line 1: 'token_count' is '3'; give a whole number"),
        (
            '{"prompt": "p", "response": "r", "group": 1}\n{"prompt": "q", "response": "r", "group": 1}\n',
            "group '1' has responses to more than one prompt",
        ),
    ],
)
def test_bad_files_are_one_line(folder: Path, content: str | None, message: str) -> None:
    if content is not None:
        (folder / "a.jsonl").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        score(ScoreConfig(use="score_plugins:number", file="a.jsonl"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("use", "file", "message"),
    [("", "a", "use: is empty"), ("math", "", "file: is empty"), ("maths", "a", "use: no reward is called 'maths'")],
)
def test_bad_arguments_are_one_line(use: str, file: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(ScoreConfig(use=use, file=file))


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evolpo.recipes.cli", "score", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_line(folder: Path) -> None:
    write(folder / "it's a (file), really.jsonl", *rows("1", "0"))
    done = cli("score_plugins:number", "it's a (file), really.jsonl", "output=out.jsonl", "timeout_s=5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "0.5000, 0.5000" in done.stdout
    assert len((folder / "out.jsonl").read_text().splitlines()) == 2


def test_command_line_options(folder: Path) -> None:
    write(folder / "a.jsonl", {"prompt": "p", "response": "The answer is 2.", "answer": "2"})
    done = cli("math", "a.jsonl", "options.tolerant=true", "timeout_s=60")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1.0000, 0.0000" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "evolpo: use: is empty"),
        (["math"], "evolpo: file: is empty"),
        (["math", "nothing.jsonl"], "evolpo: file: cannot read nothing.jsonl"),
    ],
)
def test_command_line_mistakes(arguments: list[str], message: str) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def seconds_of_processors() -> tuple[float, float]:
    """Processor time of this process, and of all that it has started, living and gone."""
    living = [one.cpu_times() for one in psutil.Process().children(recursive=True)]
    gone = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    return time.process_time(), gone + sum(one.user + one.children_user for one in living)


def test_a_trivial_function_reaches_5000_a_second(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By processor time of either side, which others on the machine do not take away; what starting costs aside."""
    few, many = 1_000, 11_000
    used = []
    for count in (few, many):
        file = write(folder / f"{count}.jsonl", *rows(*map(str, range(count))))
        before = seconds_of_processors()
        assert score(ScoreConfig(use="score_plugins:number", file=file)).values == list(range(count))
        used.append([after - start for after, start in zip(seconds_of_processors(), before, strict=True)])
    own, workers = (last - first for first, last in zip(*used, strict=True))
    assert own < (many - few) / 5_000
    assert workers / worker_count() < (many - few) / 5_000
