"""`evolpo bench step`: both sides for real on a tiny model, in turns; figures by hand; clear errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from evolpo import InputError
from evolpo.model import ModelConfig, load_tokenizer
from evolpo.recipes.bench import step as bench
from evolpo.recipes.bench.step import BenchStepConfig, Side, bench_step, print_report, questions, summarise
from evolpo.recipes.bench.step_evolpo import build_batch, kv_cache_gb
from evolpo.recipes.bench.step_side import PHASES, StepTask, reward
from evolpo.rl.data import Group, Prompt, Response


def test_both_sides_step_in_turn(model_path: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    pytest.importorskip("vllm")
    output = tmp_path / "bench" / "step.json"
    config = BenchStepConfig(
        model=ModelConfig(path=model_path),
        prompts=2,
        responses_per_prompt=3,
        max_response_tokens=4,
        steps=1,
        warmup=1,
        precision="fp32",
        compile=False,
        output=str(output),
    )
    report = bench_step(config)

    assert json.loads(output.read_text()) == report
    prompt_tokens = set()
    for name in ("evolpo", "trl"):
        (step,) = report[name]["steps"]
        assert report[f"{name}_s"] == step["seconds"] > 0
        assert set(step["phases"]) == set(PHASES)
        assert sum(step["phases"].values()) == pytest.approx(step["seconds"])
        assert all(step["phases"][phase] > 0 for phase in ("rollout", "reward", "logprobs", "backward", "optimizer"))
        assert 0.1 < report[f"{name}_peak_gb"] == step["peak_gb"] < 8
        assert 6 <= step["response_tokens"] <= 24
        assert report[name]["tokens_per_s"]["step"] == pytest.approx(step["response_tokens"] / step["seconds"])
        prompt_tokens.add(step["prompt_tokens"])
    assert len(prompt_tokens) == 1, "the two sides saw different prompts"
    assert report["evolpo"]["phases_s"]["sync"] > 0
    assert report["speedup"] == pytest.approx(report["trl_s"] / report["evolpo_s"])
    assert report["setting"]["precision"] == "fp32"
    captured = capfd.readouterr()
    turns = [line.split(":")[1] for line in captured.err.splitlines() if line.startswith("bench: step")]
    assert turns == [" step 1/2 evolpo", " step 1/2 trl", " step 2/2 evolpo", " step 2/2 trl"]
    assert "times TRL's speed" in captured.out


def test_a_side_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.WORKERS, "evolpo", "evolpo.recipes.no_such_worker")
    task = StepTask("nowhere", ["What?"], 2, 4, 1, "fp32", False, 0)
    log = tmp_path / "side.log"
    with pytest.raises(RuntimeError, match=r"evolpo side died with exit code 1; the end of .*side\.log") as error:
        Side("evolpo", task, log)
    assert "no_such_worker" in str(error.value).splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": 0}, "prompts: 0 is not positive"),
        ({"steps": 0}, "steps: 0 is not positive"),
        ({"max_response_tokens": -1}, "max_response_tokens: -1 is not positive"),
        ({"responses_per_prompt": 1}, "responses_per_prompt: 1 is no group; give at least 2"),
        ({"warmup": -1}, "warmup: -1 is negative; give 0 or more"),
        ({"precision": "fp8"}, "precision: 'fp8' is none of auto, bf16, fp32"),
        ({"output": "step"}, "output: 'step' does not end in .json; give the file of the results"),
    ],
)
def test_mistakes_name_the_field(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        BenchStepConfig(**changes)
    assert str(error.value) == message


def test_another_version_of_trl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise bench.PackageNotFoundError(name)

    monkeypatch.setattr(bench, "version", missing)
    with pytest.raises(InputError) as error:
        bench_step(BenchStepConfig())
    assert str(error.value) == "bench: needs TRL 1.16; pip install 'evolpo[bench]'"
    monkeypatch.setattr(bench, "version", lambda name: "1.2.0")
    with pytest.raises(InputError, match=r"bench: needs TRL 1\.16, not 1\.2\.0; "):
        bench_step(BenchStepConfig())


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "version", lambda name: "1.16.0")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"output: .* cannot be written"):
        bench_step(BenchStepConfig(output=str(tmp_path / "file" / "step.json")))


def test_questions_depend_on_the_seed_alone() -> None:
    assert questions(4, 1) == questions(4, 1) != questions(4, 2)
    assert len(set(questions(50, 0))) == 50


def test_every_response_carries_a_signal() -> None:
    responses = [(i, j) for i in range(30) for j in range(30)]
    values = {reward(ids) for ids in responses}
    assert len(values) == len(responses)
    assert min(values) >= 0
    assert max(values) < 1
    assert reward((1, 2)) == reward([1, 2])


def test_batch_has_the_advantages_and_sentences_of_its_responses(model_path: str) -> None:
    tokenizer = load_tokenizer(model_path)
    prompt = Prompt("0", "What?", (1, 2))
    texts = ["One. Two. Three.", "No end"]
    responses = []
    for text in texts:
        ids = tuple(tokenizer(text)["input_ids"])
        responses.append(Response(ids, text, (-1.0,) * len(ids), "stop"))
    batch = build_batch([Group(prompt, tuple(responses))], tokenizer)
    first, second = (reward(response.token_ids) for response in responses)
    # The sample standard deviation of two values is their distance over the square root of 2.
    assert [row.advantage for row in batch.rows] == pytest.approx(
        [0.5**0.5, -(0.5**0.5)] if first > second else [-(0.5**0.5), 0.5**0.5], rel=1e-4
    )
    assert [max(row.units) + 1 for row in batch.rows] == [3, 1]
    assert batch.response_tokens == sum(map(len, texts))


def test_key_value_cache_holds_all_sequences(model_path: str) -> None:
    model = LlamaForCausalLM.from_pretrained(model_path)
    # 40 tokens are 2 blocks, and one to spare; 2 layers x keys and values x 64 numbers x 4 bytes.
    assert kv_cache_gb(model, 6, 40) == 6 * 3 * 32 * (2 * 2 * 64 * 4) / 2**30


def test_figures_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    def step(rollout: float, backward: float, tokens: int, peak: float) -> dict[str, object]:
        phases = dict.fromkeys(PHASES, 0.0) | {"rollout": rollout, "backward": backward}
        return {"seconds": rollout + backward, "phases": phases, "response_tokens": tokens, "peak_gb": peak}

    evolpo = [step(1.0, 2.0, 100, 1.5), step(2.0, 2.0, 200, 2.5), step(6.0, 8.0, 300, 2.0)]
    trl = [step(6.0, 4.0, 100, 3.0)]
    report = summarise({"evolpo": evolpo, "trl": trl}, {"seed": 3})
    assert (report["evolpo_s"], report["trl_s"], report["speedup"]) == (4.0, 10.0, 2.5)
    assert (report["evolpo_peak_gb"], report["trl_peak_gb"]) == (2.5, 3.0)
    assert report["evolpo"]["phases_s"] == dict.fromkeys(PHASES, 0.0) | {"rollout": 2.0, "backward": 2.0}
    assert report["evolpo"]["tokens_per_s"] == pytest.approx(
        {"rollout": 600 / 9, "backward": 50, "training": 50, "step": 600 / 21}
    )
    assert report["setting"] == {"seed": 3}

    print_report(report)
    shown = capsys.readouterr().out
    assert "2.5 times TRL's speed, 4 wanted" in shown
    assert "evolpo's time goes to: rollout 50%, backward 50%, reward 0%" in shown
