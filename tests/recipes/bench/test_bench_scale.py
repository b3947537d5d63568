"""`evolpo bench scale`: cells of both sides for real on a tiny model, lengths as they are called, going on, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evolpo import InputError
from evolpo.model import ModelConfig, load_tokenizer
from evolpo.recipes.bench import scale
from evolpo.recipes.bench.scale import BenchScaleConfig, Cell, bench_scale, cells, filled, without_end
from evolpo.rollout.prompts import chat_tokens


def config(model_path: str, tmp_path: Path, **changes: object) -> BenchScaleConfig:
    given: dict[str, object] = {
        "model": ModelConfig(path=model_path),
        "prompt_tokens": [160],
        "response_tokens": [24],
        "group_sizes": [2],
        "base": [120, 16, 2],
        "prompts": 1,
        "steps": 1,
        "warmup": 0,
        "precision": "fp32",
        "compile": False,
        "output": str(tmp_path / "scale.json"),
    }
    return BenchScaleConfig(**(given | changes))  # type: ignore[arg-type]


def test_one_thing_varies_at_a_time() -> None:
    found = cells(BenchScaleConfig())
    assert found[0] == Cell(128, 128, 8)
    assert len(found) == len(set(found)) == 1 + 3 + 4 + 3
    assert all(sum(a != b for a, b in zip(one, found[0], strict=True)) <= 1 for one in found)


@pytest.mark.slow
def test_both_sides_take_full_lengths_and_a_second_call_goes_on(
    model_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = bench_scale(config(model_path, tmp_path))
    assert [(row["prompt_tokens"], row["response_tokens"], row["group_size"]) for row in report["cells"]] == [
        (120, 16, 2),
        (160, 16, 2),
        (120, 24, 2),
    ]
    for row in report["cells"]:
        assert "error" not in row, row["error"]
        assert row["response_tokens_taken"] == row["response_tokens"] * 2
        assert row["prompt_tokens_taken"] / 2 == pytest.approx(row["prompt_tokens"], abs=8)
        assert row["speedup"] == pytest.approx(row["trl_s"] / row["evolpo_s"])
        assert min(row["evolpo_peak_gb"], row["trl_peak_gb"]) > 0.1
    assert "160" in capsys.readouterr().out
    assert json.loads((tmp_path / "scale.json").read_text()) == report

    monkeypatch.setattr(scale, "measure", None)  # What is done is not measured again.
    assert bench_scale(config(model_path, tmp_path)) == report
    with pytest.raises(InputError, match=r"steps: .* holds cells with 1, not 2; give another output"):
        bench_scale(config(model_path, tmp_path, steps=2))


def test_a_side_that_dies_is_a_row_that_says_so(
    model_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(*_: object) -> None:
        raise RuntimeError("bench: the trl side died with exit code -9; the end of its log:\nKilled")

    monkeypatch.setattr(scale, "measure", dies)
    report = bench_scale(config(model_path, tmp_path))
    assert [row["error"].splitlines()[0] for row in report["cells"]] == [
        "bench: the trl side died with exit code -9; the end of its log:"
    ] * 3
    assert "exit code" in capsys.readouterr().out


def test_prompts_are_filled_up(model_path: str) -> None:
    tokenizer = load_tokenizer(model_path)
    for tokens in (150, 400):
        assert tokens - 8 < len(chat_tokens(tokenizer, "", filled("What is 1 + 2?", tokenizer, tokens))) <= tokens
    assert filled("What is 1 + 2?", tokenizer, 3) == "What is 1 + 2?"


def test_the_copy_ends_with_another_token(model_path: str, tmp_path: Path) -> None:
    usual = load_tokenizer(model_path)
    copy = without_end(Path(model_path), tmp_path / "copy")
    without_end(Path(model_path), tmp_path / "copy")
    there = load_tokenizer(str(copy))
    assert there.eos_token_id != usual.eos_token_id
    assert json.loads((copy / "config.json").read_text())["eos_token_id"] == there.eos_token_id
    assert there.chat_template == usual.chat_template
    assert (copy / "model.safetensors").samefile(Path(model_path) / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_tokens": [0]}, "prompt_tokens: 0 is less than 1"),
        ({"group_sizes": [1]}, "group_sizes: 1 is less than 2"),
        ({"base": [1, 2]}, "base: .* is not a prompt's tokens"),
        ({"output": "a.txt"}, "output: 'a.txt' does not end in .json"),
        ({"precision": "fp8"}, "precision: 'fp8' is none of"),
    ],
)
def test_wrong_values(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchScaleConfig(**changes)  # type: ignore[arg-type]
