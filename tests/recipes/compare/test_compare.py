"""A comparison of algorithms: what it plans, what it refuses, how it goes on, and one for real on a tiny model."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import run as command_line
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from processes import timeless

from evolpo import InputError
from evolpo.recipes import cli, commands
from evolpo.recipes.compare import compare as compare_module
from evolpo.recipes.compare import state as compare_state
from evolpo.recipes.compare.compare import all_runs, chosen_factors, compared_runs, work, write_search
from evolpo.recipes.compare.plan import (
    CompareConfig,
    PlannedRun,
    SearchConfig,
    algorithm_of,
    best_factor,
    planned_run,
    published_runs,
    search_runs,
    with_clip_factor,
)
from evolpo.recipes.compare.state import (
    begin,
    check_same_settings,
    check_same_versions,
    claimed,
    fail,
    finish,
    forget_failures,
    last_line,
    settle,
    state,
)
from evolpo.recipes.runs.folder import write_config
from evolpo.rl.algorithm import AlgorithmConfig
from evolpo.rl.logs.metrics import read_metrics
from evolpo.rl.losses import LOSSES
from evolpo.rollout.prompts import DataConfig
from evolpo.rollout.sources import SourceConfig


def config(folder: Path | str = "outputs", **changes: Any) -> CompareConfig:
    data = DataConfig(train=[SourceConfig(kind="reasoning_gym", family="chain_sum", size=40)], heldout_size=6)
    given: dict[str, Any] = {"output_dir": str(folder), "algorithms": ["lpo", "grpo"], "seeds": [0, 1], "data": data}
    return CompareConfig(**given | changes)


def leave_results(run: PlannedRun, accuracy: float) -> None:
    """What a finished run leaves, as far as the planning of further ones looks at it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    write_config(run.folder, run.config)
    (run.folder / "summary.json").write_text(json.dumps({"accuracy_after": accuracy}))


# -- the plan --------------------------------------------------------------------------------------------------------


def test_runs_differ_in_seed_and_algorithm_alone() -> None:
    runs = published_runs(config(algorithms=["lpo", "dapo", "lpo:two_sentences", "lpo:kl_coef=0.1"]))
    assert [(run.algorithm, run.seed) for run in runs[:5]] == [
        ("lpo", 0),
        ("dapo", 0),
        ("lpo:two_sentences", 0),
        ("lpo:kl_coef=0.1", 0),
        ("lpo", 1),
    ]
    assert len({run.folder for run in runs}) == 8
    settings = [OmegaConf.to_container(OmegaConf.structured(run.config)) for run in runs]
    first = settings[0]
    assert isinstance(first, dict)
    for one in settings:
        assert isinstance(one, dict)
        assert {key for key in one if one[key] != first[key]} <= {"seed", "algorithm", "name"}
    by_name = {run.algorithm: run.config.algorithm for run in runs}
    assert by_name["lpo:two_sentences"] == replace(by_name["lpo"], units="two_sentences")
    assert by_name["lpo:kl_coef=0.1"] == replace(by_name["lpo"], kl_coef=0.1)
    assert by_name["dapo"].max_refills == 0  # the same samples for all
    assert {run.config.data.seed for run in runs} == {0}  # one held-out split for all seeds


def test_budgets_of_the_algorithm_group_are_those_of_all() -> None:
    shared = AlgorithmConfig(optimizer_steps=4, max_refills=2)
    for name in LOSSES:
        found = algorithm_of(name, shared)
        assert (found.name, found.optimizer_steps, found.max_refills) == (name, 4, 2)


def test_a_clip_factor_widens_the_published_range() -> None:
    dapo = with_clip_factor(AlgorithmConfig("dapo"), 3.0)
    assert (dapo.clip_low, dapo.clip_high) == (pytest.approx(0.6), pytest.approx(0.84))
    assert with_clip_factor(AlgorithmConfig("dapo"), 1.0) == AlgorithmConfig("dapo")
    cispo = with_clip_factor(AlgorithmConfig("cispo"), 0.3)  # no bound below stays none
    assert (cispo.clip_low, cispo.clip_high) == (1.0, pytest.approx(1.2))


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ({0.3: [0.5, 0.7], 1.0: [0.5, 0.5], 3.0: [0.9, 0.1]}, 0.3),
        ({0.3: [0.6], 1.0: [0.6], 3.0: [0.6]}, 1.0),
        ({0.3: [0.6], 1.0: [0.5], 3.0: [0.6]}, 3.0),  # log 3 is nearer than log 0.3
        ({0.3: [0.9, None], 1.0: [0.5, 0.5]}, 1.0),
        ({0.3: [None]}, None),
    ],
)
def test_the_best_factor(accuracies: dict[float, list[float | None]], best: float | None) -> None:
    assert best_factor(accuracies) == best


@given(st.dictionaries(st.sampled_from([0.1, 0.3, 1.0, 3.0, 10.0]), st.lists(st.floats(0, 1), min_size=2, max_size=2)))
def test_no_factor_beats_the_best(accuracies: dict[float, list[float]]) -> None:
    best = best_factor(accuracies)
    assert (best is None) == (not accuracies)
    for values in accuracies.values():
        assert best is not None
        assert sum(accuracies[best]) / 2 >= sum(values) / 2 - 1e-8


def test_the_second_table_follows_the_search(tmp_path: Path) -> None:
    study = config(tmp_path, search=SearchConfig([1.0, 3.0], [100]))
    assert len(all_runs(study)) == 8
    assert chosen_factors(study) == {}
    for run in search_runs(study):
        leave_results(run, 0.9 if (run.algorithm, run.factor) in (("lpo", 3.0), ("grpo", 1.0)) else 0.5)
    assert chosen_factors(study) == {"lpo": 3.0, "grpo": 1.0}
    runs = all_runs(study)
    assert [(run.algorithm, run.factor, run.seed) for run in runs[8:]] == [("lpo", 3.0, 0), ("lpo", 3.0, 1)]
    assert runs[8].config.algorithm.clip_low == pytest.approx(0.09)
    tables = [(run.table, run.algorithm, run.seed) for run in compared_runs(study)]
    assert len(tables) == 8
    assert set(tables) == {
        (table, name, seed) for table in ("published", "tuned") for name in ("lpo", "grpo") for seed in (0, 1)
    }
    write_search(study, tmp_path / "search.json")
    assert json.loads((tmp_path / "search.json").read_text())["lpo"] == {
        "chosen": 3.0,
        "accuracy": {"1": {"100": 0.5}, "3": {"100": 0.9}},
    }


def test_an_algorithm_whose_search_failed_has_failed_runs(tmp_path: Path) -> None:
    study = config(tmp_path, search=SearchConfig([3.0], [100]))
    for run in search_runs(study):
        if run.algorithm == "lpo":
            begin(make(run.folder))
            fail(run.folder, "KeyError: no")
    tuned = [(run.algorithm, run.status) for run in compared_runs(study) if run.table == "tuned"]
    assert tuned == [("lpo", "failed")] * 2 + [("grpo", "pending")] * 2


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"algorithms": []}, ["algorithms: "]),
        ({"algorithms": ["lpo"]}, ["algorithms: ", "two"]),
        ({"algorithms": ["lpo", "lpo"]}, ["algorithms: "]),
        ({"algorithms": ["lpo", "ppo"]}, ["algorithms: 'ppo'", "gspo_token_mean"]),
        ({"algorithms": ["lpo", "grpo:token"]}, ["algorithms: grpo:token", "only lpo"]),
        ({"algorithms": ["lpo", "lpo:words"]}, ["units", "words"]),
        ({"algorithms": ["lpo", "lpo:steps=5"]}, ["algorithms: lpo:steps=5: unequal budgets"]),
        ({"algorithms": ["lpo", "dapo:max_refills=3"]}, ["algorithms: dapo:max_refills=3: unequal budgets"]),
        ({"algorithms": ["lpo", "lpo:algorithm.optimizer_steps=2"]}, ["unequal budgets"]),
        ({"algorithms": ["lpo", "lpo:colour=red"]}, ["'colour' is no field", "kl_coef"]),
        ({"algorithms": ["lpo", "lpo:kl_coef=much"]}, ["algorithms: lpo:kl_coef=much", "Float"]),
        ({"algorithm": AlgorithmConfig(clip_low=0.1)}, ["algorithm.clip_low", "published"]),
        ({"seeds": [0]}, ["seeds: [0]", "two"]),
        ({"seeds": [3, 3]}, ["seeds: [3, 3]"]),
        ({"search": SearchConfig([1.0, 0.0])}, ["search.clip_factors", "positive"]),
        ({"search": SearchConfig([1.0, 1.0])}, ["search.clip_factors"]),
        ({"search": SearchConfig([1.0], [])}, ["search.seeds", "empty"]),
        ({"search": SearchConfig([1.0], [1])}, ["search.seeds: [1]", "seeds of its own"]),
        ({"workers": 0}, ["workers: 0"]),
        ({"processes": 2}, ["processes: 2", "workers"]),
        ({"resume": "somewhere"}, ["resume: ", "same command"]),
        ({"steps": 0}, ["steps: 0"]),
    ],
)
def test_what_would_be_no_comparison(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as error:
        config(**changes)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), error.value


def test_nothing_held_out_is_nothing_to_compare_on() -> None:
    with pytest.raises(InputError, match=r"^data\.heldout_size: 0"):
        config(data=DataConfig(train=[SourceConfig(kind="reasoning_gym", family="chain_sum")], heldout_size=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"steps": 7}, "^steps: unequal budgets: .* 100, now 7"), ({"seed": 9}, "^seed: other settings: .* 0, now 9")],
)
def test_a_folder_of_other_settings(tmp_path: Path, change: dict[str, int], message: str) -> None:
    run = planned_run(config(tmp_path), "lpo", 1.0, 0)
    check_same_settings(run)
    leave_results(run, 0.5)
    check_same_settings(replace(run, config=replace(run.config, output_dir="moved")))
    with pytest.raises(InputError, match=message):
        check_same_settings(replace(run, config=replace(run.config, **change)))


def test_a_folder_of_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = check_same_versions(tmp_path)
    assert check_same_versions(tmp_path) == ours
    assert len(ours["code"]) == 12
    assert "torch" in ours
    monkeypatch.setattr(compare_state, "versions", lambda: ours | {"code": "0123456789ab"})
    with pytest.raises(InputError, match=f"different code versions: code was {ours['code']} and is 0123456789ab"):
        check_same_versions(tmp_path)


def test_comments_are_no_other_code() -> None:
    plain = compare_state._code("def f(x):\n    return x\n")
    assert plain == compare_state._code('"""Doc."""\ndef f(x):\n    """Doc."""\n    return (x)  # why\n')
    assert plain != compare_state._code("def f(x):\n    return -x\n")


def test_the_command_line_checks_a_plan(
    capsys: pytest.CaptureFixture[str], tiny_model_path: str, tmp_path: Path
) -> None:
    words = ["experiment=lpo_vs_grpo_gspo", f"model.path={tiny_model_path}", f"output_dir={tmp_path}"]
    code, out, err = command_line(capsys, "compare", *words, "--dry-run")
    assert (code, err) == (0, "")
    assert "5 algorithms x 5 seeds, 15 runs of the search" in out
    assert list(tmp_path.iterdir()) == []
    code, out, err = command_line(capsys, "compare", *words, "algorithms=[lpo,ppo]")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("evolpo: algorithms: 'ppo' is none of")


# -- going on --------------------------------------------------------------------------------------------------------


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_a_run_is_claimed_by_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "seed_0"
    other = (
        "import sys, pathlib, time\n"
        "from evolpo.recipes.compare.state import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1])) as mine:\n"
        "    print(mine, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", other, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    with claimed(folder) as mine:
        assert not mine
    process.kill()
    process.wait()
    with claimed(folder) as mine:  # the system unlocked it
        assert mine


def test_states_of_a_run(tmp_path: Path) -> None:
    run = planned_run(config(tmp_path), "lpo", 1.0, 0)
    folder = make(run.folder)
    assert state(folder) == "pending"
    (folder / "half.txt").touch()
    assert not begin(folder)  # no checkpoint: from the start
    assert state(folder) == "started"
    assert not (folder / "half.txt").exists()
    settle([run])  # nobody has the lock: the process died
    assert (state(folder), last_line(folder)) == ("failed", compare_state.DIED.strip())
    assert forget_failures([run]) == 1
    assert state(folder) == "pending"

    begin(folder)
    fail(folder, "Traceback\nKeyError: 3\n")
    assert (state(folder), last_line(folder)) == ("failed", "KeyError: 3")
    forget_failures([run])

    begin(folder)
    checkpoint = make(folder / "checkpoints" / "step_2")
    (make(checkpoint / "optimizer") / "rank_0.safetensors").touch()
    (checkpoint / "state.json").touch()
    settle([run])
    assert forget_failures([run]) == 1
    assert begin(folder)  # from the checkpoint
    (folder / "summary.json").touch()
    assert state(folder) == "done"
    finish(folder, keep_models=True)
    assert sorted(path.name for path in checkpoint.iterdir()) == ["state.json"]
    finish(folder, keep_models=False)
    assert sorted(path.name for path in folder.iterdir()) == ["summary.json"]


def test_a_worker_with_nothing_to_do_starts_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = config(tmp_path, search=SearchConfig([]))
    for run in published_runs(study):
        leave_results(run, 0.5)
    monkeypatch.setattr(compare_module, "_engine", lambda run: pytest.fail("an engine was started"))
    work(study)


@pytest.mark.parametrize("launcher", ["", "hydra/launcher=joblib"])
def test_several_workers_are_jobs_of_hydra(
    capsys: pytest.CaptureFixture[str],
    tiny_model_path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launcher: str,
) -> None:
    calls: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(compare_module.subprocess, "call", lambda command, env: calls.append((command, env)) or 0)
    monkeypatch.setattr(compare_module, "_report", lambda *_: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    given = ["experiment=units", f"model.path={tiny_model_path}", f"output_dir={tmp_path}", "workers=2"]
    code, _, err = command_line(capsys, "compare", *given, *filter(None, [launcher]))
    assert code == 0, err
    [(command, environment)] = calls
    words = ["--multirun", "experiment=compare/units", *given[1:], "worker=0,1"]
    options = [launcher] if launcher else ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert command[command.index("compare") + 1 :] == [*words, *options]
    assert int(environment["OMP_NUM_THREADS"]) == max((os.cpu_count() or 1) // 2, 1)
    assert (tmp_path / "units" / "versions.json").exists()


def test_the_record_of_the_workers_lies_in_the_study(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    commands.registered("compare")
    with initialize_config_dir(str(Path(cli.__file__).parent / "conf"), version_base=None):
        words = ["experiment=compare/units", f"output_dir={tmp_path}"]
        assert compose("compare", words, return_hydra_config=True).hydra.sweep.dir == f"{tmp_path}/units"


# -- for real --------------------------------------------------------------------------------------------------------

PLUGIN = """
from pathlib import Path
from evolpo.rewards import Sample, sample_reward

@sample_reward
def vowels(sample: Sample) -> float:
    return sum(letter in "aeiou" for letter in sample.text) / max(len(sample.text), 1)

def pairs(token_ids, tokenizer):
    if Path("trap").exists():
        Path("trap").unlink()
        raise KeyError("a trap")
    return [place // 2 for place in range(len(token_ids))]
"""


def compare(model: str, folder: Path, code: int) -> tuple[str, str]:
    """Compare two algorithms over two seeds, and give what the command printed."""
    fields = [
        "name=study",
        f"model.path={model}",
        'algorithms=[lpo,"lpo:plugin:pairs"]',
        "seeds=[0,1]",
        "search.clip_factors=[]",
        "steps=2",
        "prompts_per_step=2",
        "responses_per_prompt=4",
        "data.train=[{kind: reasoning_gym, family: chain_sum, size: 40, difficulty: easy}]",
        "data.heldout_size=6",
        "data.max_prompt_tokens=200",
        "rollout.max_response_tokens=8",
        "rollout.kv_cache_gb=0.25",
        "rewards.components=[{use: 'plugin:vowels'}]",
        "trainer.zero_stage=0",
        "trainer.learning_rate=0.01",
        "trainer.precision=fp32",
        "trainer.tokens_per_micro_batch=256",
        "algorithm.optimizer_steps=2",
        "logger.tensorboard=false",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "evolpo.recipes.cli", "compare", *fields],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout, done.stderr


@pytest.mark.timeout(1000)
def test_a_comparison_with_a_failed_run_goes_on(served_model_path: str, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "trap").touch()
    out, err = compare(served_model_path, tmp_path, code=1)
    study = tmp_path / "outputs" / "study"
    broken, alone = study / "runs" / "lpo_plugin_pairs" / "seed_0", study / "runs" / "lpo" / "seed_1"
    assert err.splitlines()[-1].startswith("evolpo: 1 runs are missing: lpo:plugin:pairs seed 0 (failed); the same")
    assert "lpo seed 1 done: held-out" in err  # the others went on
    assert last_line(broken) == "KeyError: 'a trap'"
    assert out.splitlines()[-1] == str(Path("outputs") / "study" / "comparison.html")
    rows = json.loads((study / "comparison.json").read_text())
    assert [(row["algorithm"], row["seed"]) for row in rows if row["accuracy_final"] is None] == [
        ("lpo:plugin:pairs", 0)
    ]
    # The run was the first one of its process: after the failure a new one was started.
    before = timeless(read_metrics(alone / "metrics.jsonl"))
    (alone / "summary.json").unlink()
    kept = (study / "runs" / "lpo" / "seed_0" / "metrics.jsonl").read_bytes()

    out, err = compare(served_model_path, tmp_path, code=0)
    assert "2 done before, 1 failed and tried again" in err
    assert "lpo seed 0 " not in err
    assert (study / "runs" / "lpo" / "seed_0" / "metrics.jsonl").read_bytes() == kept
    # Now it came after another run in the same engine, and every figure is the same to the last bit.
    assert err.index("lpo:plugin:pairs seed 0 begins") < err.index("lpo seed 1 begins")
    assert err.count("run outputs/study/runs") == 2
    assert timeless(read_metrics(alone / "metrics.jsonl")) == before
    assert all(not (folder / "checkpoints").exists() for folder in study.glob("runs/*/seed_*"))
    rows = json.loads((study / "comparison.json").read_text())
    assert len(rows) == 4
    assert all(row["accuracy_final"] is not None for row in rows)
    assert "(2 seeds)" in out
