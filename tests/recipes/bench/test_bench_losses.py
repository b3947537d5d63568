"""`evolpo bench losses` for real, small; its memory against what is known to be allocated."""

import json
import sys

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from evolpo import InputError
from evolpo.model import ModelConfig, load_tokenizer, model_folder
from evolpo.recipes import cli
from evolpo.recipes.bench.losses import (
    BenchLossesConfig,
    _one_thread,
    _response_ids,
    _sentences,
    loss_calls,
    medians_ms,
    peak_bytes,
)
from evolpo.rl.losses import LOSSES
from evolpo.rl.segment import SEGMENTERS

CPU = torch.device("cpu")


def test_the_command_measures_every_loss_and_segmenter(tmp_path, capsys, monkeypatch):
    file = tmp_path / "bench" / "losses.json"
    GlobalHydra.instance().clear()
    words = ["batch=2", "tokens=300", "repeats=2", f"output={file}"]
    monkeypatch.setattr(sys, "argv", ["evolpo", "bench", "losses", *words])
    cli.main()
    report = json.loads(file.read_text())
    assert list(report["losses"]) == list(LOSSES)
    assert list(report["segmenters"]) == list(SEGMENTERS)
    grpo = report["losses"]["grpo"]
    for name, found in report["losses"].items():
        assert found["peak_mib"] > 2 * 300 * 4 / 2**20  # the gradient at least
        if name != "grpo":
            assert report[f"{name}_over_grpo"] == pytest.approx(found["ms"] / grpo["ms"])
    for found in report["segmenters"].values():
        assert found["tokens_per_s"] == pytest.approx(2 * 300 / (found["ms"] / 1000))
    assert report["setting"]["threads"] == 1
    shown = capsys.readouterr()
    assert all(name in shown.out for name in [*LOSSES, *SEGMENTERS, str(file)])
    assert "timing" in shown.err


def test_losses_are_timed_on_one_thread_and_the_others_come_back(monkeypatch):
    # vLLM's CPU engine, started by any test before this one, replaces the function by one that does nothing.
    monkeypatch.setattr(torch, "set_num_threads", torch._C.set_num_threads)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with _one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)


def test_calls_are_timed_in_turns_and_without_the_first():
    order = []
    found = medians_ms({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, CPU)
    assert order == ["a", "b"] * 8
    assert all(0 < ms < 1000 for ms in found.values())


def test_memory_is_the_most_held_at_once():
    """Exponentials are kept for their gradient, which is as large again; doubles before them are freed."""
    x = torch.zeros(1000, 250, requires_grad=True)
    size = x.numel() * 4
    assert peak_bytes(lambda: x.detach() + 1, CPU) == pytest.approx(size, abs=64)
    assert peak_bytes(lambda: x.detach() + 1 + 1 + 1, CPU) == pytest.approx(2 * size, abs=64)
    assert peak_bytes(lambda: torch.autograd.grad((2 * x).exp().sum(), x)[0], CPU) == pytest.approx(2 * size, abs=64)


def test_sentences_and_calls_are_realistic():
    ids = _sentences(4096, seed=0)
    lengths = torch.bincount(torch.from_numpy(ids))
    assert 18 < lengths.float().mean() < 22
    calls = loss_calls(BenchLossesConfig(batch=2, tokens=400), CPU)
    assert all(call().shape == (2, 400) and call().abs().sum() > 0 for call in calls.values())
    tokenizer = load_tokenizer(model_folder(ModelConfig(name="ling_nano")))
    response = _response_ids(tokenizer, 4096, 0)
    sentences = SEGMENTERS["punctuation"](response, tokenizer)[-1] + 1
    assert 10 < 4096 / sentences < 40


@pytest.mark.parametrize("field", ["batch", "tokens", "repeats"])
def test_bad_fields(field):
    with pytest.raises(InputError, match=f"{field}: 0 is not positive"):
        BenchLossesConfig(**{field: 0})
