"""Where a run may lie: its name, links, who else works there, folders that cannot be written, disks that are full."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from command_line import run as command

from evolpo import InputError
from evolpo.recipes.runs.folder import check_name, new_run_folder

NAMED = {
    "train": [],
    "sft": [],
    "evaluate": [],
    "apexeval": ["run=x"],
    "pipeline": ["experiment=pipeline/evo_cot_nano"],
    "compare": ["experiment=compare/lpo_vs_grpo_gspo"],
}
OUTSIDE = ["../../escape", "a/../../b", "..", ".", "/absolute/path", "//a"]
NO_NAMES = ["", "   ", " a", "a ", "a\tb", "a\nb", "n" * 300, "a/" + "b" * 256, "/".join(["d" * 200] * 25), "a/ /b"]


def quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@pytest.mark.parametrize("name", [*OUTSIDE, *NO_NAMES, "a\0b"])
def test_no_name(name: str) -> None:
    with pytest.raises(InputError, match=r"^name: .{,100} is no name of a folder in output_dir") as caught:
        check_name(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(NAMED))
def test_names_of_runs_that_are_none(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("../../escape", "   "):
        code, _, err = command(capsys, name, *NAMED[name], f"name={quoted(given)}")
        assert (code, err.count("\n")) == (2, 1), (given, err)
        assert err.startswith("evolpo: name: "), err
        assert len(err) < 300
    assert list(tmp_path.iterdir()) == []


def links(folder: Path) -> dict[str, Path]:
    """Links, and other things, that are no folder."""
    (folder / "file").write_text("text")
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "to a file").symlink_to(folder / "file")
    (folder / "loop").symlink_to(folder / "other")
    (folder / "other").symlink_to(folder / "loop")
    (folder / "itself").symlink_to(folder / "itself")
    return {name: folder / name for name in ("file", "dangling", "to a file", "loop", "itself")}


def test_a_name_that_is_a_link_or_a_file(tmp_path: Path) -> None:
    for name in links(tmp_path):
        with pytest.raises(InputError, match=rf"^name: .*{name} .* give another name"):
            new_run_folder(str(tmp_path), name)
        with pytest.raises(InputError, match=rf"^output_dir: .*{name} cannot be written"):
            new_run_folder(str(tmp_path / name), "run")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert new_run_folder(str(tmp_path), "link").resolve().parent == tmp_path / "real"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("train", "resume"),
        ("sft", "resume"),
        ("apexeval", "resume"),
        ("pipeline", "resume"),
        ("merge", "run"),
        ("apexeval", "run"),
    ],
)
def test_a_run_that_is_no_folder(name: str, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = [f"output={tmp_path / 'merged'}"] if name == "merge" else []
    found = links(tmp_path)
    for place in (found["loop"], found["dangling"], found["file"] / "below"):
        code, _, err = command(capsys, name, f"{field}={quoted(str(place))}", *more)
        assert (code, err.count("\n")) == (2, 1), (place, err)
        assert err.startswith(f"evolpo: {field}: "), err


HOLDER = """
import sys
from pathlib import Path
from evolpo.recipes.runs import lock
from evolpo.recipes.pipeline import state
with (state if sys.argv[1] == "pipeline" else lock).locked(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["train", "sft", "apexeval", "pipeline"])
def test_a_second_process_on_one_run_is_refused(
    name: str, tmp_path: Path, tiny_model_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from evolpo.recipes.apexeval.apexeval import ApexEvalConfig
    from evolpo.recipes.config import SftConfig, TrainConfig
    from evolpo.recipes.pipeline.pipeline import PipelineConfig
    from evolpo.recipes.pipeline.stages import StageConfig
    from evolpo.recipes.runs.folder import write_config
    from evolpo.rollout.data.config import DataConfig
    from evolpo.rollout.engine import RolloutConfig

    short, brief = DataConfig(max_prompt_tokens=200), RolloutConfig(max_response_tokens=8)
    configs = {
        "train": TrainConfig,
        "sft": SftConfig,
        "apexeval": lambda: ApexEvalConfig(checkpoints=[tiny_model_path], data=short, rollout=brief),
        "pipeline": lambda: PipelineConfig(stages=[StageConfig("a", "sft")]),
    }
    write_config(tmp_path, configs[name]())
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, name, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        code, _, err = command(capsys, name, f"resume={tmp_path}")
        assert code == 2
        last = err.splitlines()[-1]
        assert last.startswith(f"evolpo: resume: {tmp_path} is being worked on by "), err
        assert name == "pipeline" or f"process {holder.pid} on " in last


def boxed(script: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a view of the file system of its own."""
    call = [
        "bwrap",
        "--dev-bind",
        "/",
        "/",
        *flags,
        "--chdir",
        str(folder),
        sys.executable,
        "-c",
        textwrap.dedent(script),
    ]
    return subprocess.run(call, capture_output=True, text=True, timeout=280)


CALL = """
import sys
from hydra.core.global_hydra import GlobalHydra
from evolpo.recipes import cli

def call(*words):
    GlobalHydra.instance().clear()
    sys.argv = ["evolpo", *words]
    try:
        cli.main()
    except SystemExit as end:
        return end.code or 0
    return 0
"""


def words_of_sft(folder: Path, model: str) -> list[str]:
    lines = [json.dumps({"prompt": f"{a} + {a} =", "response": str(2 * a)}) for a in range(8)]
    (folder / "sums.jsonl").write_text("\n".join(lines))
    fields = f"path={folder}/sums.jsonl examples_per_step=2 model.path={model} trainer.precision=fp32"
    kept = "trainer.tokens_per_micro_batch=512 trainer.save_every=1 trainer.keep_checkpoints=0 logger.tensorboard=false"
    return ["sft", f"output_dir={folder}/disk/outputs", "name=full", *fields.split(), *kept.split()]


@pytest.mark.timeout(300)
def test_a_disk_that_is_full_at_a_checkpoint(tmp_path: Path, tiny_model_path: str) -> None:
    """A real one, of 16 MB: the checkpoint before stays whole, a line says so, and with room the run goes on."""
    (tmp_path / "disk").mkdir()
    words = words_of_sft(tmp_path, tiny_model_path)
    script = f"""
    {textwrap.indent(CALL, "    ").strip()}
    import contextlib, os
    from pathlib import Path
    assert call(*{words!r}, "steps=1") == 0
    [run] = Path("disk/outputs/full").iterdir()
    with contextlib.suppress(OSError), open("disk/filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1 << 12))
    os.truncate("disk/filler", os.path.getsize("disk/filler") - 300_000)
    assert call("sft", f"resume={{run}}", "steps=3") == 1
    found = sorted(one.name for one in (run / "checkpoints").iterdir())
    assert found == ["step_1"], found
    os.remove("disk/filler")
    assert call("sft", f"resume={{run}}", "steps=3") == 0
    assert (run / "checkpoints" / "step_3" / "state.json").exists()
    """
    done = boxed(script, tmp_path, "--size", "16000000", "--tmpfs", str(tmp_path / "disk"))
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stderr.splitlines() if line.startswith("evolpo: ")]
    assert "checkpoint of step 2 cannot be written" in line
    assert "No space left on device" in line
    assert "that of step 1 is whole" in line


@pytest.mark.timeout(300)
def test_folders_that_cannot_be_written(tmp_path: Path, tiny_model_path: str) -> None:
    (tmp_path / "disk" / "outputs" / "begun").mkdir(parents=True)
    words = words_of_sft(tmp_path, tiny_model_path)
    from evolpo.recipes.config import SftConfig
    from evolpo.recipes.runs.folder import write_config

    write_config(tmp_path / "disk" / "outputs" / "begun", SftConfig())
    outputs = f"output_dir={tmp_path}/disk/outputs"
    sums = "data.train=[{kind: reasoning_gym, family: chain_sum, size: 40}]"
    short = [f"model.path={tiny_model_path}", "rollout.max_response_tokens=8", "data.max_prompt_tokens=200"]
    calls = [
        words,
        ["train", outputs, *short, sums, "data.heldout_size=4"],
        ["compare", outputs, "experiment=compare/lpo_vs_grpo_gspo", *short],
        ["pipeline", outputs, "experiment=pipeline/evo_cot_nano"],
        ["sft", f"resume={tmp_path}/disk/outputs/begun"],
    ]
    script = f"""
    {textwrap.indent(CALL, "    ").strip()}
    for words in {calls!r}:
        print(words[0], call(*words), file=sys.stderr)
    """
    done = boxed(script, tmp_path, "--ro-bind", str(tmp_path / "disk"), str(tmp_path / "disk"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("evolpo: ") or line.endswith(" 2")]
    assert len(told) == 2 * len(calls), done.stderr
    for words, line, ending in zip(calls, told[::2], told[1::2], strict=True):
        assert ending == f"{words[0]} 2"
        assert "Read-only file system" in line, line
