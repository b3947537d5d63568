"""Ling 2.0 checkpoints: published names and back, several files, and every way in which they can be wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_ling import make_ling

from evolpo import InputError
from evolpo.model import load_model, load_tokenizer
from evolpo.model.ling import BailingMoeV2ForCausalLM
from evolpo.model.nano import write_ling_nano
from evolpo.model.stored import INDEX
from evolpo.model.weights import is_mtp, published


@pytest.fixture
def folder(ling, tmp_path):
    ling.save_pretrained(tmp_path)
    return tmp_path


def test_a_round_trip_changes_nothing(ling, folder):
    loaded = load_model(str(folder), torch.float32)
    assert isinstance(loaded, BailingMoeV2ForCausalLM)
    assert {n: t.shape for n, t in loaded.state_dict().items()} == {n: t.shape for n, t in ling.state_dict().items()}
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in ling.state_dict().items())
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded(ids).logits, ling(ids).logits)


def test_names_are_the_published_ones(folder):
    tensors = load_file(folder / "model.safetensors")
    assert tensors["model.layers.1.mlp.experts.7.up_proj.weight"].shape == (16, 32)
    assert tensors["model.layers.1.mlp.experts.0.down_proj.weight"].shape == (32, 16)
    for name in (
        "model.word_embeddings.weight",
        "model.layers.0.attention.query_key_value.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.2.mlp.gate.expert_bias",
        "model.layers.2.mlp.shared_experts.down_proj.weight",
        "model.layers.3.eh_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ):
        assert name in tensors
    assert not any("gate_up" in name or "load" in name for name in tensors)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BailingMoeV2ForCausalLM"]


def test_another_precision_leaves_the_bias_alone(ling, folder):
    loaded = load_model(str(folder), torch.bfloat16)
    biases = [t for n, t in loaded.state_dict().items() if n.endswith("expert_bias")]
    assert all(bias.dtype == torch.float32 for bias in biases)
    assert all(p.dtype == torch.bfloat16 for p in loaded.parameters())


def test_stacked_experts_come_apart_as_views(ling):
    stacked = ling.model.layers[1].mlp.experts.gate_up_proj
    pieces = dict(published("model.layers.1.mlp.experts.gate_up_proj", stacked))
    assert len(pieces) == 16
    up = pieces["model.layers.1.mlp.experts.3.up_proj.weight"]
    assert torch.equal(up, stacked[3, 16:])
    assert up.untyped_storage().data_ptr() == stacked.untyped_storage().data_ptr()


def test_several_files_with_an_index(ling, folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / INDEX).write_text(json.dumps(index))
    loaded = load_model(str(folder), torch.float32)
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in ling.state_dict().items())
    (folder / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks b\.safetensors"):
        load_model(str(folder), torch.float32)


def test_all_that_does_not_fit_is_named(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    del tensors["model.layers.1.mlp.experts.2.up_proj.weight"]
    tensors["model.surplus"] = torch.zeros(1)
    tensors["lm_head.weight"] = torch.zeros(3, 32)
    save_file(tensors, file)
    with pytest.raises(InputError) as error:
        load_model(str(folder), torch.float32)
    message = str(error.value)
    assert "2 missing: model.layers.1.mlp.experts.2.up_proj.weight, model.norm.weight" in message
    assert "1 left over: model.surplus" in message
    assert "1 of another shape: lm_head.weight [3, 32] instead of [64, 32]" in message
    assert "\n" not in message


def test_a_configuration_that_cannot_be_is_an_input_error(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_group": 3}))
    with pytest.raises(InputError, match=r"config\.json: .*n_group: 3 does not divide num_experts=8"):
        load_model(str(folder), torch.float32)


def test_mtp_layers_may_be_left_out(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 0}))
    loaded = load_model(str(folder), torch.float32)
    assert len(loaded.model.layers) == 3
    assert is_mtp("model.layers.3.eh_proj.weight", 3)
    assert not is_mtp("model.layers.2.mlp.gate.weight", 3)
    assert not is_mtp("model.norm.weight", 3)


def test_ling_nano_is_the_same_for_everyone(tmp_path):
    for name in ("one", "two"):
        write_ling_nano(tmp_path / name)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert (tmp_path / "one/tokenizer.json").read_text() == (tmp_path / "two/tokenizer.json").read_text()
    tokenizer = load_tokenizer(str(tmp_path / "one"))
    text = "12 + 45 = 57. Größe 数学 🙂"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("987")["input_ids"]) == 3


def test_a_random_model_differs_by_seed():
    one, two = (make_ling(seed).lm_head.weight for seed in (0, 1))
    assert not torch.equal(one, two)
