"""The trainer on a Ling 2.0 model: the same weights and biases of experts on all ZeRO stages and ranks; resume."""

import pytest
import torch
from launching import launch
from tiny_models import write_tiny_ling
from trainer_worker import GROUPS

from evolpo.model.ling import BailingMoeV2ForCausalLM
from evolpo.model.weights import is_mtp

LAYERS = 2
CONFIG = {"precision": "fp32", "learning_rate": 1e-3, "tokens_per_micro_batch": 64, "expert_bias_rate": 1e-2}
EVERYTHING, HALVES = [list(range(GROUPS))], [[0, 1], [2, 3]]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ling")
    write_tiny_ling(folder, LAYERS)
    return str(folder)


def jobs(model_path, groups, folder=""):
    def job(name, **changes):
        config = CONFIG | changes.pop("config", {})
        return {"name": name, "model": model_path, "config": config, "groups": groups, "steps": 5} | changes

    stages = [job(f"stage_{stage}", config={"zero_stage": stage}) for stage in range(4)]
    whole = {"zero_stage": 1}
    saving = {"config": whole, "save_after": 2, "steps": 4, "folder": folder}
    resuming = {"config": whole, "load": True, "start": 2, "steps": 2, "folder": folder}
    bf16 = job("bf16", config={"zero_stage": 1, "precision": "bf16"})
    fp8 = job("fp8", config={"zero_stage": 1, "fp8": True})
    return [*stages, job("saved", **saving), job("resumed", **resuming), bf16, fp8]


@pytest.fixture(scope="module")
def one(model_path, tmp_path_factory):
    base = tmp_path_factory.mktemp("one")
    return launch(jobs(model_path, EVERYTHING, str(base / "checkpoint")), 1, base / "runs")


@pytest.fixture(scope="module")
def two(model_path, tmp_path_factory):
    base = tmp_path_factory.mktemp("two")
    spread = {"steps": 5, "groups": HALVES, "model": model_path}
    experts = [
        {"name": f"experts_{stage}", "config": CONFIG | {"zero_stage": stage, "expert_parallel": 2}} | spread
        for stage in (1, 2)
    ]
    return launch([*jobs(model_path, HALVES, str(base / "checkpoint"))[:4], *experts], 2, base / "runs")


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("ranks", ["one", "two"])
def test_stages_and_ranks_give_the_same_weights(ranks, stage, request):
    expected = request.getfixturevalue("one").tensors("stage_0", "weights")
    found = request.getfixturevalue(ranks).tensors(f"stage_{stage}", "weights")
    assert found.keys() == expected.keys()
    worst = max((found[name] - expected[name]).abs().max().item() for name in expected)
    assert worst < 1e-5


@pytest.mark.parametrize("stage", [1, 2])
def test_experts_spread_over_ranks_give_the_same_weights(stage, one, two):
    expected, found = one.tensors("stage_0", "weights"), two.tensors(f"experts_{stage}", "weights")
    assert found.keys() == expected.keys()
    worst = {name: (found[name] - expected[name]).abs().max().item() for name in expected}
    assert max(worst.values()) < 1e-5, worst


def test_biases_moved_and_are_part_of_the_weights(one):
    weights = one.tensors("stage_0", "weights")
    biases = {name: tensor for name, tensor in weights.items() if name.endswith("expert_bias")}
    trained = [bias for name, bias in biases.items() if not is_mtp(name, LAYERS)]
    assert len(trained) == LAYERS - 1
    assert all(bias.abs().max() > 0.005 and bias.mean().abs() < 1e-6 for bias in trained)
    metrics = one["stage_0"]["metrics"][0]
    assert metrics["experts/worst_violation"] > 0
    assert metrics["experts/bias_spread"] == pytest.approx(0.02, rel=0.5)
    assert metrics["experts/dead_experts"] >= 0


def test_mtp_layers_are_kept_and_not_trained(one, model_path):
    before = BailingMoeV2ForCausalLM.from_pretrained(model_path, torch.float32).state_dict()
    after = one.tensors("stage_0", "weights")
    kept = [name for name in after if is_mtp(name, LAYERS) and name in before]
    assert kept
    assert all(torch.equal(after[name], before[name]) for name in kept)


def test_a_resumed_run_is_bit_identical(one):
    assert one["resumed"]["digest"] == one["saved"]["digest"]
    assert one["resumed"]["master_digest"] == one["saved"]["master_digest"]


def test_bfloat16_keeps_the_biases_in_float32(one):
    assert one["bf16"]["weight_dtypes"] == ["torch.bfloat16", "torch.float32"]
    weights = one.tensors("bf16", "weights")
    wide = {name for name, tensor in weights.items() if tensor.dtype == torch.float32}
    assert all(name.endswith("expert_bias") for name in wide)


def test_fp8_trains_and_is_watched_layer_by_layer(one):
    exact, narrow = (one[name]["metrics"] for name in ("stage_0", "fp8"))
    assert narrow[0]["grad_norm"] == pytest.approx(exact[0]["grad_norm"], rel=0.1)
    assert narrow[0]["grad_norm"] != exact[0]["grad_norm"]
    watched = {key for key in narrow[0] if key.startswith("fp8/")}
    for layer in range(LAYERS):
        for tensor in ("x", "w", "dy", "x_t", "dy_t"):
            assert {f"fp8/{tensor}/layer_{layer}/{kind}" for kind in ("underflow/max", "similarity/min")} <= watched
    assert all(narrow[0][key] > 0.98 for key in watched if key.endswith("min"))
    assert not any(key.startswith("fp8/") for key in narrow[1])  # only every tenth step is watched
