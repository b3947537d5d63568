"""Which way adapters go to the engine."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evolpo import InputError
from evolpo.model.config import preset
from evolpo.model.ling import BailingMoeV2ForCausalLM
from evolpo.model.lora import LoraConfig
from evolpo.recipes.training.sync import adapter_rank

LORA = LoraConfig(rank=4)


def dense() -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(hidden_size=64, num_hidden_layers=1, vocab_size=100))


def mixture() -> BailingMoeV2ForCausalLM:
    with torch.device("meta"):
        return BailingMoeV2ForCausalLM(preset("ling_nano"))


@pytest.mark.parametrize(("gpu", "rank"), [(True, 4), (False, 0)])
def test_a_dense_models_adapter_goes_alone_on_a_gpu(monkeypatch: pytest.MonkeyPatch, gpu: bool, rank: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert adapter_rank(LORA, "auto", dense())[0] == rank
    assert adapter_rank(LORA, "adapter", dense())[0] == 4
    assert adapter_rank(LORA, "folded", dense())[0] == 0
    found, how = adapter_rank(LORA, "auto", mixture())
    assert found == 0
    assert "folded" in how


def test_without_adapters_all_weights_go() -> None:
    assert adapter_rank(None, "adapter", dense()) == (0, "vLLM gets all weights after each step")


@pytest.mark.parametrize(("lora", "model"), [(LORA, mixture()), (LoraConfig(rank=600), dense())])
def test_what_vllm_cannot_take_alone_is_refused(lora: LoraConfig, model: torch.nn.Module) -> None:
    with pytest.raises(InputError, match=r"rollout\.lora_sync: adapter .* give auto or folded"):
        adapter_rank(lora, "adapter", model)
