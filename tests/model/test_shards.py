"""A model of several files: the same tensors as in one, each once, and no more of them held than those of a file."""

import json
import weakref

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import write_tiny_model
from transformers import AutoModelForCausalLM

from evolpo.model import shards
from evolpo.model.names import save_model
from evolpo.model.stored import INDEX
from evolpo.rl.merge import merge

MOST = 40_000


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").mkdir()
    write_tiny_model(tmp_path / "model")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def tensors_of(folder):
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_one_file_is_what_transformers_writes(model, tmp_path):
    save_model(model, tmp_path / "saved", model.named_parameters())
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "model" / name).read_bytes(), name
    assert not list((tmp_path / "saved").glob("*.part"))


def test_several_files_hold_each_tensor_once(model, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", MOST)
    saved = tmp_path / "saved"
    save_model(model, saved, model.named_parameters())
    files = sorted(saved.glob("*.safetensors"))
    count = len(files)
    assert count > 2
    assert [file.name for file in files] == [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    assert not list(saved.glob("*.part"))
    stored = [(name, file.name) for file in files for name in load_file(file)]
    index = json.loads((saved / INDEX).read_text())
    assert dict(stored) == index["weight_map"]
    assert sorted(name for name, _ in stored) == sorted(dict(model.named_parameters()))
    size = sum(parameter.nbytes for parameter in model.parameters())
    assert index["metadata"] == {"total_parameters": size // 4, "total_size": size}
    again = AutoModelForCausalLM.from_pretrained(saved)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    merge([saved, saved], [0.5, 0.5], tmp_path / "merged", lambda line: None)  # ours reads it too
    merged = tensors_of(tmp_path / "merged")
    assert all(torch.equal(tensor, merged[name]) for name, tensor in model.named_parameters())


def test_a_file_leaves_the_memory_before_the_next_is_full(tmp_path, monkeypatch):
    made = []

    def tensors():
        """Gone when the next is asked for, as gathered ones are."""
        shared = torch.empty(1000)
        for number in range(20):
            yield f"t{number}", shared.fill_(number)

    def write(held, file):
        assert not any(tensor() is not None for tensor in made)  # of the files before
        made.extend(weakref.ref(tensor) for tensor in held.values())
        plain(held, file)

    plain = shards._write
    monkeypatch.setattr(shards, "_write", write)
    shards.write_shards(tensors(), tmp_path, most=12_000)
    found = tensors_of(tmp_path)
    assert len(made) == 20
    assert all(torch.equal(found[f"t{number}"], torch.full((1000,), float(number))) for number in range(20))
    assert all(file.stat().st_size < 13_000 for file in tmp_path.glob("*.safetensors"))


def test_a_tensor_larger_than_a_file_has_its_own(tmp_path):
    shards.write_shards([("a", torch.ones(2)), ("big", torch.ones(100)), ("b", torch.ones(2))], tmp_path, most=40)
    assert [list(load_file(file)) for file in sorted(tmp_path.glob("*.safetensors"))] == [["a"], ["big"], ["b"]]
