"""`evolpo bench fleet` for real on a tiny model: its cells, its failures, its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evolpo import InputError
from evolpo.model import ModelConfig
from evolpo.recipes.bench.fleet import BenchFleetConfig, bench_fleet


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cells_and_failures(model_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "fleet.json"
    report = bench_fleet(
        BenchFleetConfig(
            model=ModelConfig(path=model_path),
            staleness=[0, 1],
            tails=[0.9],
            bounds=["hard", "soft"],
            median_tokens=24,
            prompts_per_step=2,
            responses_per_prompt=2,
            steps=3,
            warmup=1,
            precision="fp32",
            output=str(output),
        )
    )
    assert json.loads(output.read_text()) == report
    assert [(cell["bound"], cell["staleness"]) for cell in report["cells"]] == [("hard", 0), ("hard", 1), ("soft", 1)]
    assert report["speedup"]["0.9"].keys() == {"0", "1", "1 soft"}
    assert report["over_bound"] == report["lost"] == report["duplicates"] == 0
    for cell in report["cells"]:
        assert cell["trained_tokens_per_s"] > 0
        assert 0 < cell["engines_busy"] <= 1.05
        assert cell["staleness_max"] <= cell["staleness"] or cell["bound"] == "soft"
    assert report["cells"][0]["staleness_mean"] == 0
    assert report["cells"][1]["staleness_mean"] > 0
    for name in ("kill", "hang"):
        assert report["failures"][name]["resumed"] > 0
        assert report["kept_tokens"][name] > 0
    assert report["noticed_s"]["kill"] < report["noticed_s"]["hang"]
    out = capsys.readouterr().out
    assert "trained/s" in out
    assert "raylet" not in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"staleness": [1, 2]}, r"staleness: \[1, 2\] has no 0 to compare with"),
        ({"staleness": [0, -1]}, r"staleness: \[0, -1\] has no 0 to compare with, or numbers below it"),
        ({"tails": []}, r"tails: \[\] are no sigmas"),
        ({"bounds": ["firm"]}, "bound: 'firm' is none of hard, soft"),
        ({"responses_per_prompt": 1}, "responses_per_prompt: 1 is no group"),
        ({"median_tokens": 0}, "median_tokens: 0 is not positive"),
        ({"output": "fleet.txt"}, "output: 'fleet.txt' does not end in .json"),
    ],
)
def test_bad_settings_are_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchFleetConfig(**changes)  # type: ignore[arg-type]
