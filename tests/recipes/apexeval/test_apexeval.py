"""ApexEval: figures, ranking, correlation, what it refuses, resume; and a whole run against `evolpo evaluate`."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy import stats
from tiny_models import write_tiny_model

from evolpo import InputError
from evolpo.model import load_model
from evolpo.recipes.apexeval import apexeval as command
from evolpo.recipes.apexeval.apexeval import ApexEvalConfig, PassConfig, apexeval, selection_problems
from evolpo.recipes.apexeval.checkpoints import check_alike, check_folders, checkpoints_of_run, stored_tensors
from evolpo.recipes.apexeval.rows import Row, draw, figures, rank_correlation, ranked, read_rows, tables, write_rows
from evolpo.recipes.runs.evaluation import Judged
from evolpo.rewards.stack import RewardsConfig, RewardSpec
from evolpo.rl.data import Group, Prompt, Response
from evolpo.rollout.engine import RolloutConfig, Sampling
from evolpo.rollout.prompts import DataConfig, split_heldout
from evolpo.rollout.sources import SourceConfig

PLUGIN = """
from evolpo.rewards import Sample, sample_reward

@sample_reward
def tolerant(sample: Sample) -> float:
    return float("e" in sample.text)

@sample_reward
def strict(sample: Sample) -> float:
    return float("e" in sample.text and "r" in sample.text)
"""
PROBLEMS = 12


def row(name: str, step: int | None, *passes: float, greedy: float = 0.5) -> Row:
    """A row with pass@1, pass@4, pass@16 as given."""
    shares = {f"pass@{k}": value for k, value in zip((1, 4, 16), passes, strict=True)}
    return Row(name, step, shares | {"greedy": greedy, "tokens": 9.0, "greedy_tokens": 8.0}, [], [])


def test_figures_by_hand() -> None:
    sampled = [Judged("a", "easy", 4, 4, 2.0), Judged("b", "hard", 1, 4, 6.0), Judged("c", "hard", 0, 4, 4.0)]
    greedy = [Judged("a", "easy", 1, 1, 3.0), Judged("b", "hard", 0, 1, 5.0), Judged("c", "hard", 0, 1, 7.0)]
    found = figures(sampled, greedy, [1, 2])
    assert found["pass@1"] == pytest.approx((1 + 1 / 4) / 3)
    assert found["pass@2"] == pytest.approx((1 + 1 / 2) / 3)
    assert found["greedy"] == pytest.approx(1 / 3)
    assert found["hard/pass@2"] == pytest.approx(1 / 4)
    assert (found["easy/greedy"], found["hard/greedy"]) == (1.0, 0.0)
    assert (found["tokens"], found["greedy_tokens"], found["problems"]) == (4.0, 5.0, 3.0)
    for name in ("pass@1", "pass@2", "greedy"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert figures([replace(sampled[0], samples=1, correct=1)], greedy, [2])["pass@2"] is None  # unknown, and not 0


def test_ranking_goes_by_the_largest_k_then_the_next_then_fewer_steps() -> None:
    rows = [
        row("greedy", 5, 0.9, 0.9, 0.90, greedy=1.0),
        row("late", 30, 0.2, 0.6, 0.95),
        row("early", 10, 0.2, 0.6, 0.95),
        row("second", 20, 0.1, 0.7, 0.95),
        row("stepless", None, 0.2, 0.6, 0.95),
    ]
    assert [one.checkpoint for one in ranked(rows)] == ["second", "early", "late", "stepless", "greedy"]


shares = st.sampled_from([0.0, 0.25, 0.5, 0.1 + 0.2, 0.3])


@given(st.lists(st.tuples(shares, shares, shares), min_size=1, max_size=6), st.integers(0, 99))
def test_ranking_does_not_depend_on_the_order_given(passes: list[tuple[float, float, float]], seed: int) -> None:
    rows = [row(str(step), step, *shares) for step, shares in enumerate(passes)]
    mixed = list(rows)
    random.Random(seed).shuffle(mixed)
    assert ranked(mixed) == ranked(rows)
    assert ranked(rows)[0].figures["pass@16"] == pytest.approx(max(shares[2] for shares in passes))


def test_rows_go_to_disk_and_back(tmp_path: Path) -> None:
    judged = [Judged("a", "easy", 3, 4, 2.5)]
    rows = [Row("x/step_1", 1, {"pass@4": 0.75, "greedy": None}, judged, judged)]
    assert read_rows(tmp_path / "verdicts.jsonl") == []
    write_rows(tmp_path / "verdicts.jsonl", rows)
    assert read_rows(tmp_path / "verdicts.jsonl") == rows


@pytest.mark.parametrize("steps", [(10, 20), (None, 20)])
def test_table_and_picture(tmp_path: Path, steps: tuple[int | None, int]) -> None:
    from rich.console import Console

    judged = [Judged("a", "easy", 3, 4, 2.5), Judged("b", "hard", 1, 4, 2.5)]
    greedy = [Judged("a", "easy", 1, 1, 2.5), Judged("b", "hard", 0, 1, 2.5)]
    rows = [Row(f"{i}/model", step, figures(judged, greedy, [1, 4]), judged, greedy) for i, step in enumerate(steps)]
    console = Console(width=100, record=True)
    for table in tables(rows):
        console.print(table)
    text = console.export_text()
    assert all(part in text for part in ("0/model", "1/model", "pass@1", "50.0%", "easy", "hard"))
    draw(rows, tmp_path / "apexeval.png")
    assert (tmp_path / "apexeval.png").read_bytes().startswith(b"\x89PNG")


def test_rank_correlation_by_hand() -> None:
    # Ranks 1 2 3 4 and 1 3 2 4: rho = 1 - 6 * 2 / (4 * 15), tau = (5 - 1) / 6.
    rows = [row(str(i), i, 0.1, 0.2, share, greedy=0.5) for i, share in enumerate((0.1, 0.2, 0.3, 0.4))]
    found = rank_correlation(rows, [0.0, 0.2, 0.1, 0.9])
    best, greedy = found["pass@16"], found["greedy"]
    assert (best.spearman, best.kendall) == pytest.approx((0.8, 2 / 3))
    assert best.checkpoints == 4
    assert best.spearman_low <= best.spearman <= best.spearman_high
    assert best.spearman_low < 0  # four checkpoints prove nothing
    assert best.undefined == pytest.approx(4 * 0.25**4, abs=0.01)
    assert math.isnan(greedy.spearman)  # all greedy accuracies are equal
    assert math.isnan(greedy.kendall_low)
    assert greedy.undefined == 1.0


def test_rank_correlation_with_a_clear_order_of_many() -> None:
    rows = [row(str(i), i, 0.1, 0.2, i / 30, greedy=1 - i / 30) for i in range(30)]
    found = rank_correlation(rows, [i / 30 for i in range(30)])
    assert (found["pass@16"].spearman, found["pass@16"].kendall_low) == pytest.approx((1.0, 1.0))
    assert (found["greedy"].spearman_high, found["greedy"].kendall) == pytest.approx((-1.0, -1.0))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=9))
def test_rank_correlation_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    scores, outcomes = zip(*pairs, strict=True)
    assume(len(set(scores)) > 1 and len(set(outcomes)) > 1)
    found = rank_correlation([row("", 0, 0.0, 0.0, float(score)) for score in scores], outcomes)["pass@16"]
    assert found.spearman == pytest.approx(stats.spearmanr(scores, outcomes).statistic, abs=1e-12)
    assert found.kendall == pytest.approx(stats.kendalltau(scores, outcomes).statistic, abs=1e-12)


def test_rank_correlation_refuses_what_it_cannot_compare() -> None:
    rows = [row(str(i), i, 0.1, 0.2, 0.3) for i in range(3)]
    with pytest.raises(ValueError, match="2 checkpoints and 2 outcomes"):
        rank_correlation(rows[:2], [0.1, 0.2])
    with pytest.raises(ValueError, match="3 checkpoints and 2 outcomes"):
        rank_correlation(rows, [0.1, 0.2])
    unknown = replace(rows[0], figures=dict(rows[0].figures) | {"greedy": None})
    with pytest.raises(ValueError, match="greedy of 0 is unknown"):
        rank_correlation([unknown, *rows[1:]], [0.1, 0.2, 0.3])


def test_configuration_is_checked() -> None:
    with pytest.raises(InputError, match=r"checkpoints: give either"):
        ApexEvalConfig()
    with pytest.raises(InputError, match=r"checkpoints: give either"):
        ApexEvalConfig(run="a", checkpoints=["b"])
    with pytest.raises(InputError, match=r"problems: 0"):
        ApexEvalConfig(run="a", problems=0)
    with pytest.raises(InputError, match=r"evaluation\.pass_at: 8 is not between"):
        PassConfig(samples=4, pass_at=[8])
    with pytest.raises(InputError, match=r"evaluation\.pass_at: is empty"):
        PassConfig(pass_at=[])
    with pytest.raises(InputError, match=r"evaluation\.samples: 1"):
        PassConfig(samples=1, pass_at=[1])


def test_a_budget_beyond_the_context_is_refused_at_once(served_model_path: str) -> None:
    sums = DataConfig([SourceConfig(family="chain_sum")], max_prompt_tokens=100)
    config = ApexEvalConfig(
        checkpoints=[served_model_path], data=sums, rollout=RolloutConfig(max_response_tokens=10**6)
    )
    with pytest.raises(InputError, match=r"rollout\.max_response_tokens: 1000000 and data\.max_prompt_tokens=100"):
        apexeval(config)


def test_folders_are_checked(tmp_path: Path, tiny_model_path: str, served_model_path: str) -> None:
    with pytest.raises(InputError, match=r"run: .* holds no checkpoint"):
        checkpoints_of_run(str(tmp_path))
    with pytest.raises(InputError, match=r"no model folder, it has no config\.json"):
        check_folders([tmp_path])
    tiny = Path(tiny_model_path)
    with pytest.raises(InputError, match="more than once"):
        check_folders([tiny, tiny])
    with pytest.raises(InputError, match=r"not of one architecture \(.*hidden_size 32 and 64"):
        check_alike([tiny, Path(served_model_path)])
    lacking = tmp_path / "lacking"
    shutil.copytree(tiny, lacking)
    tensors = load_file(lacking / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"only one of them has model\.norm\.weight"):
        check_alike([tiny, lacking])


def test_which_program_wrote_the_configuration_makes_no_difference(tmp_path: Path, tiny_model_path: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model_path, other)
    fields = json.loads((other / "config.json").read_text())
    del fields["rms_norm_eps"]  # the default
    (other / "config.json").write_text(json.dumps(fields | {"transformers_version": "4.0.0"}))
    check_alike([Path(tiny_model_path), other])


def test_tensors_are_read_from_shards(tmp_path: Path, tiny_model_path: str) -> None:
    load_model(tiny_model_path, torch.float32).save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    wanted = load_file(Path(tiny_model_path) / "model.safetensors")
    found = dict(stored_tensors(tmp_path))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def chain_sums(size: int = 60) -> DataConfig:
    """Sums, of which 10 are held out."""
    source = SourceConfig(kind="reasoning_gym", family="chain_sum", size=size)
    return DataConfig(train=[source], heldout_size=10, max_prompt_tokens=200)


def test_problems_are_training_problems_drawn_by_seed() -> None:
    config = ApexEvalConfig(run="a", data=chain_sums(), problems=20)
    train, heldout = split_heldout(config.data, 0)
    chosen = [problem.text for problem in selection_problems(config)]
    assert len(set(chosen)) == 20
    assert set(chosen) <= {problem.text for problem in train}
    assert not set(chosen) & {problem.text for problem in heldout}
    assert chosen == [problem.text for problem in selection_problems(config)]
    assert chosen != [problem.text for problem in selection_problems(replace(config, seed=1))]
    pinned = replace(config, data=replace(config.data, seed=0), seed=1)
    assert chosen == [problem.text for problem in selection_problems(pinned)]
    with pytest.raises(InputError, match=r"problems: 70 is more than the 50"):
        selection_problems(replace(config, problems=70))


class Engine:
    """A stand-in for vLLM that answers 'e' as often as its weights say, and falls over when told to."""

    version = 0

    def __init__(self, log: list[str], model: Path, fails_at: str) -> None:
        self.log, self.fails_at = log, fails_at
        log.append(f"start {model.name}")
        self.load(stored_tensors(model))

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.weights = dict(weights)

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        self.log.append("update")
        self.load(weights)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Group]:
        marker = str(int(self.weights["model.norm.weight"][0]))
        if marker == self.fails_at:
            raise KeyboardInterrupt
        n = sampling.responses_per_prompt
        texts = ["e" if i < int(marker) else "x" for i in range(n)]
        return [Group(p, tuple(Response((1,), text, (0.0,), "stop") for text in texts)) for p in prompts]


@pytest.fixture
def marked(tmp_path: Path, tiny_model_path: str) -> list[str]:
    """Three checkpoints; by `Engine` they get 2, 3 and 1 of 4 samples right."""
    folders = []
    for step, marker in enumerate((2, 3, 1)):
        folder = tmp_path / f"step_{step}"
        shutil.copytree(tiny_model_path, folder)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"].fill_(marker)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "state.json").write_text(json.dumps({"step": step}))
        folders.append(str(folder))
    return folders


def test_an_interrupted_run_goes_on_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked: list[str]
) -> None:
    (tmp_path / "letters.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    log: list[str] = []
    fails_at = "1"
    monkeypatch.setattr(command, "start_engine", lambda model, *_: Engine(log, model, fails_at))
    config = ApexEvalConfig(
        output_dir=str(tmp_path / "outputs"),
        checkpoints=marked,
        problems=PROBLEMS,
        data=chain_sums(),
        rewards=RewardsConfig(components=[RewardSpec("letters:tolerant")]),
        strict_rewards=RewardsConfig(components=[RewardSpec("letters:strict")]),
        evaluation=PassConfig(samples=4, pass_at=[1, 2]),
        rollout=RolloutConfig(max_response_tokens=8),
    )
    with pytest.raises(KeyboardInterrupt):
        apexeval(config)
    [run] = (tmp_path / "outputs" / "apexeval").iterdir()
    assert log == ["start step_0", "update", "update"]
    assert not (run / "apexeval.json").exists()
    kept = read_rows(run / "verdicts.jsonl")
    assert [one.step for one in kept] == [0, 1]

    log.clear()
    fails_at = ""
    _, rows = apexeval(replace(config, resume=str(run)))
    assert log == ["start step_2"]
    assert [one.step for one in rows] == [1, 0, 2]
    assert [one.figures["pass@1"] for one in rows] == [0.75, 0.5, 0.25]
    assert [one.figures["pass@2"] for one in rows] == pytest.approx([1.0, 5 / 6, 0.5])
    assert all(one.figures["greedy"] == 0.0 for one in rows)  # the strict verifier wants more
    assert read_rows(run / "verdicts.jsonl")[:2] == kept
    result = json.loads((run / "apexeval.json").read_text())
    assert (result["best"], result["ranked_by"]) == (marked[1], "pass@2")
    assert (run / "apexeval.png").exists()

    log.clear()
    assert apexeval(replace(config, resume=str(run)))[1] == rows
    assert log == []  # nothing is missing: no engine


def test_tokenizers_must_agree(tmp_path: Path, marked: list[str]) -> None:
    settings = Path(marked[1]) / "chat_template.jinja"
    settings.write_text("{{ messages[-1].content }}")
    config = ApexEvalConfig(output_dir=str(tmp_path), checkpoints=marked, problems=2, data=chain_sums())
    with pytest.raises(InputError, match=r"the tokenizers of .*step_0 and .*step_1 differ"):
        apexeval(config)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    full = [sys.executable, "-m", "evolpo.recipes.cli", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(full, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


def finish(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-3000:]
    return out.splitlines()


@pytest.mark.timeout(600)
def test_the_second_checkpoint_is_judged_as_by_a_fresh_engine(tmp_path: Path, served_model_path: str) -> None:
    (tmp_path / "letters.py").write_text(PLUGIN)
    shutil.copytree(served_model_path, tmp_path / "a")
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1}
    write_tiny_model(tmp_path / "b", seed=7, initializer_range=0.1, tie_word_embeddings=True, **shape)
    for name, count in (("judged", PROBLEMS), ("other", 3)):
        lines = [{"prompt": f"{name}: {i} and {i * i}?", "answer": "e"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged, other = (f"[{{kind: jsonl, path: {name}.jsonl, difficulty: easy}}]" for name in ("judged", "other"))
    common = [
        "data.max_prompt_tokens=200",
        "rollout.max_response_tokens=8",
        "rollout.kv_cache_gb=0.25",
        "precision=fp32",
        "evaluation.samples=6",
        "evaluation.pass_at=[1,3,6]",
        "processes=2",
        "rewards.components=[{use: 'letters:tolerant'}]",
    ]
    strict = "strict_rewards.components=[{use: 'letters:strict'}]"
    selection = [f"data.train={judged}", "data.heldout_size=0", f"problems={PROBLEMS}", "checkpoints=[a,b]", strict]
    whole = start(tmp_path, "apexeval", *common, *selection)
    fresh = start(tmp_path, "evaluate", *common, f"data.train={other}", f"data.heldout={judged}", "model.path=b")

    lines = finish(whole)
    run = tmp_path / lines[-2]
    rows = {one.checkpoint: one for one in read_rows(run / "verdicts.jsonl")}
    second = rows["b"]
    wanted = [json.loads(line) for line in (tmp_path / finish(fresh)[-1] / "judged.jsonl").read_text().splitlines()]
    assert [(one.correct, one.tokens) for one in second.sampled] == [(one["correct"], one["tokens"]) for one in wanted]
    assert 0 < sum(one.correct for one in second.sampled) < 6 * PROBLEMS
    assert [one.correct for one in rows["a"].sampled] != [one.correct for one in second.sampled]

    evaluation = json.loads(next((tmp_path / "outputs" / "evaluate").glob("*/evaluation.json")).read_text())
    for name in ("pass@1", "pass@3", "pass@3_low", "pass@6", "pass@6_high"):
        assert second.figures[name] == evaluation[f"eval/{name}"]
    best = max(rows.values(), key=lambda one: one.figures["pass@6"]).checkpoint
    assert json.loads((run / "apexeval.json").read_text())["best"] == best
    assert lines[-1] == best
    assert any("pass@6" in line for line in lines)
    assert finish(start(tmp_path, "apexeval", f"resume={run}")) == [*lines[:-2], str(run), best]
