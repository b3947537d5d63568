"""`evolpo bench experts` and `bench fp8` for real, small; figures by hand; going on after an interruption."""

import json

import pytest
import torch

from evolpo import InputError
from evolpo.recipes.bench.experts import BenchExpertsConfig, bench_experts
from evolpo.recipes.bench.fp8 import BenchFp8Config, Side, bench_fp8, figures, saved_bytes


def test_experts_are_timed_against_the_loop(tmp_path):
    file = tmp_path / "bench" / "experts.json"
    report = bench_experts(BenchExpertsConfig(tokens=64, hidden=32, intermediate=16, repeats=2, output=str(file)))
    assert json.loads(file.read_text()) == report
    assert report["speedup_over_loop"] == pytest.approx(report["loop_s"] / report["grouped_s"])
    assert list(report["grouped_s_by_experts"]) == ["32", "64", "128"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"used": 40}, "used: 40 experts of a token"), ({"tokens": 0}, "tokens: 0 is not positive")],
)
def test_bad_fields_of_experts(changes, message):
    with pytest.raises(InputError, match=message):
        BenchExpertsConfig(**changes)


def fp8_config(folder, **changes):
    given = {
        "steps": 4,
        "sequences": 2,
        "length": 32,
        "save_every": 2,
        "warmup_steps": 1,
        "output": str(folder / "fp8.json"),
    }
    return BenchFp8Config(**(given | changes))


def test_fp8_is_trained_beside_bf16_and_goes_on(tmp_path):
    whole = bench_fp8(fp8_config(tmp_path / "whole"))
    (tmp_path / "parts").mkdir()
    bench_fp8(fp8_config(tmp_path / "parts", steps=2))
    resumed = bench_fp8(fp8_config(tmp_path / "parts"))
    assert resumed == whole
    for name in ("fp8.json", "fp8.curves.json", "fp8.png", "fp8.safeguards.png"):
        assert (tmp_path / "parts" / name).stat().st_size > 100
    assert whole["steps"] == 4
    assert 0 < whole["loss_gap_mean"] <= whole["loss_gap_max"] < 0.1
    assert 0.5 < whole["saved_bytes_ratio"] < 0.6
    assert 0 <= whole["safeguards"]["underflow_max"] < 0.5
    assert 0.9 < whole["safeguards"]["cosine_min"] <= 1.001
    with pytest.raises(InputError, match="of another configuration"):
        bench_fp8(fp8_config(tmp_path / "parts", learning_rate=0.5))


def test_gaps_by_hand():
    """Without warmup and with one window: means 2 and 2.02."""
    losses = {"bf16": [1.0, 2.0, 3.0], "control": [1.0, 1.98, 2.99], "fp8": [1.0, 2.02, 3.04]}
    found = figures(losses, BenchFp8Config(steps=3, warmup_steps=0))
    assert found["loss_gap_max"] == found["loss_gap_mean"] == pytest.approx(0.01)
    assert found["control_gap_max"] == pytest.approx(0.03 / 6)
    assert found["loss_control"] == pytest.approx(1.99)


def test_bytes_are_those_of_the_inputs_of_linear_layers(tmp_path, monkeypatch):
    """Of N tokens in BF16: 5 layers keep a normed input and an attention output, each MLP its input and its product."""
    monkeypatch.setattr("evolpo.model.experts.ALIGNMENT", 1)  # no fillers
    config = fp8_config(tmp_path)
    ids = torch.zeros(2, 32, dtype=torch.long)
    tokens, hidden, heads = 64, 192, 4 * 64
    dense = hidden + 512
    sparse = 4 * (hidden + 64) + hidden + 64  # four experts a token, and the shared one
    expected = 2 * tokens * (5 * (hidden + heads) + dense + 4 * sparse)
    assert saved_bytes(Side(config, fp8=False).model, ids) == pytest.approx(expected, rel=0.01)
