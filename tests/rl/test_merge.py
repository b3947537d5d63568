"""Merging checkpoints: weights by hand, the theorem on a real run of SGD, and shards on disk."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evolpo import InputError
from evolpo.rl.merge import DECAYS, checkpoint_weights, decay_coefficients, merge, merge_weights


def test_weights_by_hand():
    """Linear over two intervals: w = 3/4, 1/4; so c = 1/4, 1/2, 1/4."""
    assert decay_coefficients("linear", 2) == [0.75, 0.25]
    assert checkpoint_weights("linear", 3) == [0.25, 0.5, 0.25]
    assert checkpoint_weights("uniform", 4) == [0.25] * 4
    assert merge_weights([1.0, 1.0]) == [0.0, 0.0, 1.0]  # no decay: the last checkpoint
    with pytest.raises(ValueError, match="fall from 1 to 0"):
        merge_weights([0.5, 0.7])


@given(decay=st.sampled_from([*DECAYS, "uniform"]), checkpoints=st.integers(2, 40))
def test_weights_are_shares(decay, checkpoints):
    weights = checkpoint_weights(decay, checkpoints)
    assert len(weights) == checkpoints
    assert all(weight >= 0 for weight in weights)
    assert sum(weights) == pytest.approx(1.0)


@pytest.mark.parametrize("decay", list(DECAYS))
def test_the_merge_is_the_run_with_a_decayed_rate(decay):
    """SGD without momentum on losses whose gradient does not depend on the weights, as the theorem asks."""
    intervals, steps, rate = 6, 5, 0.1
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(intervals, steps, 7, generator=generator, dtype=torch.float64)

    def run(rates):
        weights = torch.nn.Parameter(torch.ones(7, dtype=torch.float64))
        checkpoints = [weights.detach().clone()]
        for interval, share in enumerate(rates):
            optimizer = torch.optim.SGD([weights], lr=rate * share)
            for slope in slopes[interval]:
                optimizer.zero_grad()
                (weights @ slope).backward()
                optimizer.step()
            checkpoints.append(weights.detach().clone())
        return checkpoints

    constant, decayed = run([1.0] * intervals), run(decay_coefficients(decay, intervals))
    merged = sum(c * theta for c, theta in zip(checkpoint_weights(decay, intervals + 1), constant, strict=True))
    assert (merged - decayed[-1]).abs().max() < 1e-6
    assert (constant[-1] - decayed[-1]).abs().max() > 0.1


def write_model(folder, seed, shards=2, dtype=torch.bfloat16, **extra):
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"layer.{i}.weight": torch.randn(3, 2, generator=generator).to(dtype) for i in range(4)}
    tensors |= {"bias": torch.randn(5, generator=generator), **extra}
    names = sorted(tensors)
    places = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return tensors


def read_model(folder):
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def test_shards_are_merged_tensor_by_tensor(tmp_path):
    models = [write_model(tmp_path / str(i), seed=i, shards=1 + i) for i in range(3)]
    weights = [0.2, 0.3, 0.5]
    merge([tmp_path / str(i) for i in range(3)], weights, tmp_path / "merged", lambda _: None)
    found = read_model(tmp_path / "merged")
    assert found.keys() == models[0].keys()
    for name, tensor in found.items():
        expected = sum(c * model[name].double() for c, model in zip(weights, models, strict=True))
        assert torch.equal(tensor, expected.to(models[0][name].dtype))
    assert {file.name for file in (tmp_path / "merged").iterdir()} >= {"config.json", "tokenizer.json"}
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) == 3  # as in the last
    with pytest.raises(InputError, match="is there already"):
        merge([tmp_path / "0", tmp_path / "1"], [0.5, 0.5], tmp_path / "merged", lambda _: None)


def test_models_that_do_not_match_are_told_apart_by_every_tensor(tmp_path):
    write_model(tmp_path / "a", 0, more=torch.zeros(2))
    write_model(tmp_path / "b", 1, bias=torch.zeros(6))
    with pytest.raises(InputError, match=r"do not match: bias \[5\] and \[6\]; more \[2\] and None"):
        merge([tmp_path / "a", tmp_path / "b"], [0.5, 0.5], tmp_path / "merged", lambda _: None)
    assert not (tmp_path / "merged").exists()
