"""`evolpo bench lora`: a side for real on a tiny model; what is done is not done again; figures by hand."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from evolpo import InputError
from evolpo.recipes.bench.lora import BenchLoraConfig, bench_lora, run_name, summarise
from evolpo.recipes.bench.lora_side import SIDES, SideTask
from evolpo.recipes.memory.needs import Setting, Work, states
from evolpo.recipes.memory.sizes import sizes_of

NUMBERS = 2 * 3 * (2 * 128 + 2 * 96 + 3 * 160)  # two layers, rank 3: inputs and outputs of q o, k v, and the MLP


def measured(task: SideTask, folder: Path) -> dict[str, Any]:
    """What a side writes, in a process of its own."""
    made = folder / "made.json"
    command = [sys.executable, "-P", "-m", "evolpo.recipes.bench.lora_side", json.dumps(asdict(task)), str(made)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(made.read_text())
    return found


@pytest.mark.timeout(600)  # on a busy machine vLLM's start alone takes minutes
@pytest.mark.parametrize(("side", "precision"), [("adapter", "bf16"), ("full", "fp32")])
def test_a_trainer_holds_what_the_plan_says(served_model_path: str, tmp_path: Path, side: str, precision: str) -> None:
    task = SideTask(side, served_model_path, 3, 1e-3, 2, 4, 16, precision=precision)
    found = measured(task, tmp_path)
    rank = 3 if side == "adapter" else 0
    setting = Setting(1, Work(40, 16, 4, 1024), precision, zero_stage=0, lora_rank=rank)
    planned = states(sizes_of(AutoConfig.from_pretrained(served_model_path)), setting)
    expected = planned["weights"] + planned["gradients"] + planned["optimizer"]
    assert expected <= found["trainer_bytes"] < expected + 200_000  # beside it tables, prompts and the like


@pytest.mark.timeout(600)
def test_a_side_measures_its_trainer_and_its_sync(served_model_path: str, tmp_path: Path) -> None:
    task = SideTask("adapter", served_model_path, 3, 1e-3, 2, 4, 16, precision="fp32")
    found = measured(task, tmp_path)
    model = 4 * (300 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 2 * 64) + 64)
    assert found["sync_bytes"] == 4 * NUMBERS
    least = model + 16 * NUMBERS  # fp32: weights of all, gradients and two moments of the adapters
    assert least <= found["trainer_bytes"] < least + 200_000 < 4 * model
    assert found["gap_max"] < 1e-4
    assert 2 * 4 <= found["sampled_tokens"] <= 2 * 4 * 16
    assert 0 < found["loaded_bytes"] < found["peak_bytes"]


def side(name: str) -> dict[str, Any]:
    full = name == "full"
    return {
        "trainer_bytes": 1000 if full else 250,
        "sync_bytes": 10 if name == "adapter" else 400,
        "sync_s": 0.1,
        "sample_s": 2.0,
        "sampled_tokens": 100,
        "gap_mean": 1e-3,
    }


def test_figures_by_hand() -> None:
    sides = {name: side(name) for name in SIDES}
    found = summarise(sides, {"full": {0: 0.30, 1: 0.34, 2: 0.5}, "lora": {0: 0.33, 1: 0.35}})
    assert found["memory_ratio"] == 0.25
    assert found["sync_ratio"] == 0.025
    assert found["accuracy_lora"] == {0: 0.33, 1: 0.35}
    assert found["difference"]["mean"] == pytest.approx(0.02)
    half = 12.7062 * 0.014142 / 2**0.5  # Student's quantile of one degree of freedom
    assert found["difference"]["ci95"] == pytest.approx([0.02 - half, 0.02 + half], abs=1e-4)
    half_way = summarise({}, {"full": {0: 0.3}})
    assert half_way["memory_ratio"] is None
    assert half_way["full"] == {"mean": 0.3, "ci95": None}
    assert half_way["lora"] is None


def done(folder: Path, name: str, /, **values: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(values))


def finished(config: BenchLoraConfig) -> None:
    """All parts of a bench, as if done."""
    done(config.folder, "start", folder="nowhere", minutes=1.0)
    for name in SIDES:
        done(config.folder, f"side_{name}", **side(name))
    for rate, accuracy in zip(config.rates, (0.3, 0.4), strict=True):
        done(config.folder, run_name(4, config.search_seed, rate), accuracy_after=accuracy, minutes=1.0)
    for seed in config.seeds:
        done(config.folder, run_name(0, seed, None), accuracy_after=0.5, minutes=2.0)
        done(config.folder, run_name(4, seed, 2e-4), accuracy_after=0.4 + 0.1 * seed, minutes=1.0)


def test_what_is_done_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "lora.json")
    config = BenchLoraConfig(rank=4, seeds=[0, 1], rates=[1e-4, 2e-4], output=output)
    finished(config)
    bench_lora(config)
    report = json.loads(Path(output).read_text())
    assert report["learning_rate"] == 2e-4
    assert report["accuracy_lora"] == {"0": 0.4, "1": 0.5}
    assert report["minutes"] == {"full": 2.0, "lora": 1.0}
    assert "memory_ratio: 0.250, at most 0.4 wanted" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"rank: .* holds parts with 4, not 8; give another output"):
        bench_lora(BenchLoraConfig(rank=8, output=output))


def test_a_part_that_fails_is_named_and_the_others_stay(tmp_path: Path) -> None:
    config = BenchLoraConfig(rank=4, seeds=[0], rates=[1e-4, 2e-4], output=str(tmp_path / "lora.json"))
    finished(config)
    missing = config.folder / f"{run_name(4, 0, 2e-4)}.json"
    missing.unlink()
    with pytest.raises(RuntimeError, match=r"lora_0\.0002_seed_0: evolpo train .*(?s:exit code 2.*model\.path)"):
        bench_lora(config)
    assert not missing.exists()
    report = json.loads(Path(config.output).read_text())
    assert report["accuracy_full"] == {"0": 0.5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": []}, "seeds: "),
        ({"rates": [1e-4, 1e-4]}, "rates: "),
        ({"seeds": [100]}, "search_seed: 100"),
        ({"rank": 0}, "rank: "),
        ({"output": "a.txt"}, "output: "),
    ],
)
def test_mistakes_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchLoraConfig(**values)
