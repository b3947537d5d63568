"""Stages one after the other: checks before the first, what is left out and what runs again, and a real one, killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from evolpo import InputError
from evolpo.recipes import cli
from evolpo.recipes.pipeline import pipeline
from evolpo.recipes.pipeline.pipeline import PipelineConfig
from evolpo.recipes.pipeline.stages import StageConfig, check_stages, override
from evolpo.recipes.pipeline.state import locked, read_records
from evolpo.rl.checkpoint import list_checkpoints

DATA = [
    "data=arithmetic",
    "data.train=[{kind: reasoning_gym, family: chain_sum, size: 40}]",
    "data.heldout_size=6",
]
LENGTHS = ["data.max_prompt_tokens=200", "rollout.max_response_tokens=8", "rollout.kv_cache_gb=0.25"]
TRAINER = ["trainer.precision=fp32", "trainer.learning_rate=0.01", "trainer.tokens_per_micro_batch=512"]
KEPT = "trainer.keep_checkpoints=0"
PLUGIN = """
from evolpo.rewards import Sample, sample_reward

@sample_reward
def vowels(sample: Sample) -> float:
    return sum(letter in "aeiou" for letter in sample.text) / max(len(sample.text), 1)
"""


def small_stages(model: str, **more: list[str]) -> list[StageConfig]:
    """The stages of Evo-CoT for a tiny model, with more overrides by name of the stage."""
    reward = "components=[{use: 'plugin:vowels'}]"
    groups = ["steps=2", "prompts_per_step=2", "responses_per_prompt=4", f"rewards.{reward}"]
    judged = ["problems=6", "evaluation.samples=2", "evaluation.pass_at=[1,2]", "precision=fp32"]
    rewards = [f"rewards.{reward}", f"strict_rewards.{reward}"]
    overrides = {
        "dft": [
            f"model.path={model}",
            "steps=40",
            *DATA,
            *TRAINER,
            "examples_per_step=4",
            "trainer.save_every=20",
            KEPT,
        ],
        "apexeval": [*judged, *rewards, *DATA, *LENGTHS],
        "rl": [*groups, *DATA, *LENGTHS, *TRAINER, "trainer.save_every=1", KEPT],
        "merge": [],
        "evaluate": ["precision=fp32", f"rewards.{reward}", *DATA, *LENGTHS],
    }
    stages = [
        StageConfig("dft", "sft"),
        StageConfig("apexeval", "apexeval", run="dft"),
        StageConfig("rl", "train", model="apexeval"),
        StageConfig("merge", "merge", run="rl"),
        StageConfig("evaluate", "evaluate", model="merge"),
    ]
    return [replace(stage, overrides=overrides[stage.name] + more.get(stage.name, [])) for stage in stages]


def as_override(stages: Sequence[StageConfig]) -> str:
    fields = ("name", "command", "experiment", "model", "run", "overrides")
    parts = (", ".join(f"{name}: {json.dumps(getattr(stage, name))}" for name in fields) for stage in stages)
    return f"stages=[{', '.join(f'{{{part}}}' for part in parts)}]"


# -- mistakes, before anything runs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([StageConfig("a/b", "sft")], r"stages\[0\]\.name: 'a/b' is no name of a folder"),
        ([StageConfig("a", "sft"), StageConfig("a", "sft")], r"stages\[1\]\.name: 'a' is that of an earlier stage"),
        ([StageConfig("a", "plan")], r"stages\[0\]\.command: 'plan' is none of sft, apexeval, train, merge, evaluate"),
        ([StageConfig("a", "train", model="b"), StageConfig("b", "sft")], r"stages\[0\]\.model: 'b' is no earlier"),
        ([StageConfig("a", "sft"), StageConfig("b", "merge", run="c")], r"stages\[1\]\.run: 'c' .* give one of a$"),
        ([StageConfig("a", "sft"), StageConfig("b", "train", run="a")], r"stages\[1\]\.run: train takes no run"),
        ([StageConfig("a", "sft"), StageConfig("b", "merge", model="a")], r"stages\[1\]\.model: merge takes no model"),
        (
            [StageConfig("a", "evaluate"), StageConfig("b", "evaluate", model="a")],
            r"stages\[1\]\.model: 'a' \(evaluate\) leaves no model; no earlier stage leaves a model",
        ),
        ([StageConfig("a", "sft", overrides=["--multirun"])], r"stages\[0\]\.overrides: '--multirun' is no override"),
        ([StageConfig("a", "sft", overrides=["output_dir=x"])], r"stages\[0\]\.overrides: 'output_dir=x' is set by"),
        (
            [StageConfig("a", "sft"), StageConfig("b", "sft", model="a", overrides=["model.path=x"])],
            r"stages\[1\]\.overrides: 'model\.path=x' is set by",
        ),
    ],
)
def test_stages_that_do_not_fit_together(stages: list[StageConfig], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_stages(stages)


def run_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of `evolpo pipeline`, in this process."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["evolpo", "pipeline", *arguments])
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "mistake", "parts"),
    [
        ("evaluate", "rollout.max_response_token=3", ["stages[4] (evaluate): rollout.max_response_token"]),
        ("evaluate", "rollout.max_response_tokens=400", ["rollout.max_response_tokens: 400", "600", "512"]),
        ("rl", "steps=0", ["stages[2] (rl): steps: 0"]),
        ("rl", "algorithm=nothing", ["stages[2] (rl)", "algorithm/nothing"]),
        ("rl", "rewards.components=[{use: 'plugin:nothing'}]", ["stages[2] (rl): rewards.components[0].use"]),
        ("rl", "data.train.0.family=chan_sum", ["stages[2] (rl): data.train[0].family", "chain_sum"]),
        ("rl", "trainer.keep_checkpoints=1", ["stages[3] (merge): run: rl leaves 1 checkpoint"]),
        ("dft", "path=nowhere.jsonl", ["stages[0] (dft)", "nowhere.jsonl"]),
        ("merge", "decay=sharp", ["stages[3] (merge): decay: 'sharp'"]),
    ],
)
def test_a_mistake_in_any_stage_is_found_before_the_first_runs(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_model_path: str,
    stage: str,
    mistake: str,
    parts: list[str],
) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    stages = small_stages(tiny_model_path, **{stage: [mistake]})
    code, err = run_here(capsys, monkeypatch, as_override(stages))
    assert code == 2, err
    last = err.splitlines()[-1]
    assert last.startswith("evolpo: ")
    assert all(part in last for part in parts), last
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["stages: is empty", "experiment="]),
        (["resume=nowhere"], ["resume: nowhere", "config.yaml"]),
        (["stages=[{name: a, command: sft}]", "only=[b]"], ["only: 'b' is no stage", "a"]),
        (
            ["stages=[{name: a, command: sft}, {name: b, command: train, model: a}]", "only=[b]"],
            ["only: b needs a, which is not finished", "resume="],
        ),
        (["experiment=nothing"], ["experiment/pipeline/nothing"]),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    parts: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, err = run_here(capsys, monkeypatch, *arguments)
    assert (code, err.count("\n")) == (2, 1), err
    assert all(part in err for part in parts), err


@settings(deadline=None)  # the grammar is loaded at the first parse
@given(path=st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters="\\"), min_size=1))
def test_any_path_survives_as_an_override(path: str) -> None:
    [parsed] = OverridesParser.create().parse_overrides([override("model.path", path)])
    assert str(parsed.value()) == path


# -- what runs, what is left out ----------------------------------------------------------------------------------


class Stand:
    """Stands in for the processes of the stages: leaves the files that they leave, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[list[str]] = []
        self.fails = ""
        monkeypatch.setattr(pipeline, "_call", self)
        monkeypatch.setattr(pipeline, "check_configurations", lambda stages: None)

    def __call__(self, command: Sequence[str], lock: int) -> int:
        self.calls.append(list(command))
        fields = dict(argument.split("=", 1) for argument in command[1:])
        if "resume" in fields:
            run = Path(fields["resume"])
            name = run.parent.name
        elif "output" in fields:
            run = Path(fields["output"]).parent
            name = run.parent.name
        else:
            name = fields["name"]
            folder = Path(fields["output_dir"], name)
            run = folder / f"2020-01-01_{len(list(folder.glob('*'))):02}"
        for step in (1, 2):
            checkpoint = run / "checkpoints" / f"step_{step}"
            checkpoint.mkdir(parents=True, exist_ok=True)
            (checkpoint / "state.json").write_text("{}")
        if name == self.fails:
            return 3
        (run / "model").mkdir(exist_ok=True)
        (run / "apexeval.json").write_text(json.dumps({"best": str(run / "checkpoints" / "step_2")}))
        return 0

    def names(self) -> list[str]:
        """Commands since the last call of this method, those of resumed runs marked."""
        found = [call[0] + ("+" if call[1].startswith("resume=") else "") for call in self.calls]
        self.calls.clear()
        return found


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stand:
    monkeypatch.chdir(tmp_path)
    return Stand(monkeypatch)


ALL = ["sft", "apexeval", "train", "merge", "evaluate"]


def changed(stages: list[StageConfig], name: str) -> list[StageConfig]:
    return [replace(one, overrides=[*one.overrides, "seed=7"]) if one.name == name else one for one in stages]


def test_finished_stages_are_left_out_and_changed_ones_take_along_what_depends_on_them(stand: Stand) -> None:
    stages = small_stages("somewhere")
    folder = pipeline.pipeline(PipelineConfig(stages=stages))
    records = read_records(folder)
    assert f"model.path={folder / records['apexeval'].model}" in stand.calls[2]
    assert stand.names() == ALL

    again = PipelineConfig(stages=stages, resume=str(folder))
    pipeline.pipeline(again)
    pipeline.pipeline(replace(again, resume=str(folder.resolve())))  # the same pipeline by another spelling
    assert stand.names() == []

    pipeline.pipeline(replace(again, stages=changed(stages, "rl")))
    assert stand.names() == ["train", "merge", "evaluate"]
    later = read_records(folder)
    assert later["rl"].run != records["rl"].run
    assert later["apexeval"] == records["apexeval"]

    pipeline.pipeline(again)  # and back: what was before is not remembered
    assert stand.names() == ["train", "merge", "evaluate"]


def test_a_failed_stage_stops_the_pipeline_with_its_code(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    stages = small_stages("somewhere")
    stand.fails = "rl"
    with pytest.raises(SystemExit) as end:
        pipeline.pipeline(PipelineConfig(stages=stages))
    assert end.value.code == 3
    assert stand.names() == ["sft", "apexeval", "train"]
    [folder] = Path("outputs/pipeline").iterdir()
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"stage rl ended with exit code 3; evolpo pipeline resume={folder}" in last
    assert read_records(folder)["rl"].status == "failed"
    assert read_records(folder)["rl"].seconds > 0

    stand.fails = ""
    again = PipelineConfig(stages=stages, resume=str(folder))
    pipeline.pipeline(again)
    assert stand.names() == ["train+", "merge", "evaluate"]

    stand.fails = "dft"  # with other arguments an older run must not be resumed
    with pytest.raises(SystemExit):
        pipeline.pipeline(replace(again, stages=changed(stages, "dft")))
    assert stand.names() == ["sft"]


def test_chosen_stages_run_alone(stand: Stand) -> None:
    stages = small_stages("somewhere")
    folder = pipeline.pipeline(PipelineConfig(stages=stages, only=["dft", "apexeval"]))
    assert stand.names() == ["sft", "apexeval"]
    again = PipelineConfig(stages=stages, resume=str(folder), only=["apexeval"])
    pipeline.pipeline(again)
    assert stand.names() == ["apexeval"]
    with pytest.raises(InputError, match="only: merge needs rl, which is not finished; add rl to only"):
        pipeline.pipeline(replace(again, only=["merge"]))


def test_a_pipeline_is_worked_on_once_at_a_time(stand: Stand) -> None:
    stages = small_stages("somewhere")
    folder = pipeline.pipeline(PipelineConfig(stages=stages))
    with locked(folder), pytest.raises(InputError, match="is being worked on by another process"):
        pipeline.pipeline(PipelineConfig(stages=stages, resume=str(folder)))


# -- for real -----------------------------------------------------------------------------------------------------


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "evolpo.recipes.cli", "pipeline", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def kill_after(process: subprocess.Popen[str], checkpoint: str, folder: Path) -> None:
    """kill -9 of the pipeline and its stage as soon as a checkpoint is there."""
    deadline = time.monotonic() + 200
    try:
        while not list(folder.glob(checkpoint)):
            assert process.poll() is None, process.communicate()[1][-3000:]
            assert time.monotonic() < deadline, f"no {checkpoint}"
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Stdout and stderr of a pipeline that must succeed; nothing of it is left behind if it does not end."""
    try:
        out, err = process.communicate(timeout=900)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, err[-3000:]
    return out, err


@pytest.mark.timeout(1200)
def test_the_way_of_evo_cot_killed_in_its_first_stage(tmp_path: Path, served_model_path: str) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    begun = start(tmp_path, as_override(small_stages(served_model_path)))
    kill_after(begun, "outputs/pipeline/*/dft/*/checkpoints/step_20", tmp_path)
    [folder] = (tmp_path / "outputs" / "pipeline").iterdir()
    assert {name: one.status for name, one in read_records(folder).items()} == {"dft": "running"}

    out, err = finish(start(tmp_path, f"resume={folder}"))
    [run] = (folder / "dft").iterdir()
    assert f"[1/5] dft: evolpo sft resume={run}" in err
    assert "step 21/40" in err
    assert "step 20/40" not in err
    assert [step for step, _ in list_checkpoints(run)] == [20, 40]
    records = read_records(folder)
    assert {one.status for one in records.values()} == {"finished"}
    assert (folder / records["apexeval"].model).parent == run / "checkpoints"
    assert f"rl: evolpo train model.path={folder / records['apexeval'].model} steps=2" in err
    assert json.loads((folder / records["evaluate"].run / "evaluation.json").read_text())["eval/problems"] == 6
    assert (folder / records["merge"].model / "model.safetensors").is_file()
    assert Path(out.splitlines()[-1]) == folder / "pipeline.json"
    assert "accuracy" in out

    before = (folder / "pipeline.json").read_text()
    _, err = finish(start(tmp_path, f"resume={folder}"))
    assert err.count("is finished") == 5
    assert (folder / "pipeline.json").read_text() == before
