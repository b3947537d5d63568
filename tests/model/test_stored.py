"""A model folder that is broken, huge or of negative size is one line before memory is asked for."""

import json
import math
import shutil
import time
import tracemalloc
from pathlib import Path

import pytest
from families import FAMILIES, write_model
from tiny_models import write_tiny_model

from evolpo import InputError
from evolpo.model.shapes import expected_shapes
from evolpo.model.stored import INDEX, parameters, stored_tensors
from evolpo.model.support import check_folder

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.fixture
def folder(tmp_path: Path, tiny_model_path: str) -> Path:
    return Path(shutil.copytree(tiny_model_path, tmp_path / "model"))


def refused(folder: Path) -> str:
    began = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            check_folder(folder)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 20
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model.path: ")
    return str(caught.value)


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_of_every_family_are_of_the_shapes_that_config_json_means(tmp_path: Path, family: str) -> None:
    write_model(family, tmp_path)
    check_folder(tmp_path)
    stored, expected = stored_tensors(tmp_path), expected_shapes(tmp_path)
    assert {name: one.shape for name, (_, one) in stored.items()} == {name: expected[name] for name in stored}
    assert parameters(tmp_path) == sum(math.prod(one.shape) for _, one in stored.values())


SIZES = {
    "hidden_size": [10**7, -32, 0, 32.5, "32", True, 10**30, 64],
    "num_hidden_layers": [10**6, -1, 0, "two", 10**12, 1, 3],
    "num_attention_heads": [0, -4, math.nan, math.inf, "4", 10**9],
    "num_key_value_heads": [0, -2, "2"],
    "vocab_size": [10**10, -300, "many", 299],
    "intermediate_size": [10**9, -1, 0, "64", 63],
    "max_position_embeddings": [-1, 0, "512", 10**40],
}


@pytest.mark.parametrize(("field", "value"), [(name, value) for name, values in SIZES.items() for value in values])
def test_sizes_that_are_none_or_not_those_of_the_weights(folder: Path, field: str, value: object) -> None:
    change(folder / "config.json", **{field: value})
    text = refused(folder)
    assert "config.json" in text


@pytest.mark.parametrize("experts", [10**9, -1, 3, "8", 0.5])
@pytest.mark.parametrize("family", ["ling", "qwen3_moe", "mixtral", "gpt_oss"])
def test_experts_beyond_those_of_the_weights(tmp_path: Path, family: str, experts: object) -> None:
    write_model(family, tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    [name] = [one for one in ("num_experts", "num_local_experts", "n_routed_experts") if one in raw][:1]
    change(tmp_path / "config.json", **{name: experts})
    assert "config.json" in refused(tmp_path)


def test_a_tensor_of_another_shape_is_named_with_both(folder: Path) -> None:
    change(folder / "config.json", intermediate_size=65)
    text = refused(folder)
    assert "model.safetensors: model.layers.0.mlp." in text
    assert "has the shape [" in text
    assert "config.json means [" in text


TEXTS = {
    "deep": "[" * 100_000,
    "deep_object": '{"a":' * 100_000,
    "digits": '{"hidden_size": ' + "9" * 5000 + "}",
    "utf16": '{"hidden_size": 8}'.encode("utf-16"),
    "latin": b'{"name": "\xe9"}',
    "list": "[1]",
    "number": "3",
    "empty": "",
    "pointer": LFS,
}


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", TEXTS)
def test_json_that_cannot_be_read(folder: Path, name: str, kind: str) -> None:
    content = TEXTS[kind]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    text = refused(folder)
    assert name in text
    assert ("git lfs pull" in text) == (kind == "pointer")


@pytest.mark.parametrize("kind", ["empty", "cut", "folder", "pointer", "header", "huge_header"])
def test_weights_that_cannot_be_read(folder: Path, kind: str) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.unlink()
    spoilt = {
        "empty": b"",
        "cut": content[:1000],
        "pointer": LFS.encode(),
        "header": b"\x08\0\0\0\0\0\0\0not json" + content,
        "huge_header": (2**62).to_bytes(8, "little") + content,
    }
    if kind == "folder":
        file.mkdir()
    else:
        file.write_bytes(spoilt[kind])
    text = refused(folder)
    assert "model.safetensors" in text
    assert ("git lfs pull" in text) == (kind == "pointer")


INDICES = {
    "missing": ({"weight_map": {"lm_head.weight": "model-2.safetensors"}}, "model-2.safetensors is missing"),
    "outside": ({"weight_map": {"lm_head.weight": "../model/model.safetensors"}}, "outside of its folder"),
    "unknown": ({"weight_map": {"none.weight": "model.safetensors"}}, "has no none.weight"),
    "types": ({"weight_map": {"lm_head.weight": 3}}, "has no weight_map"),
    "none": ({}, "has no weight_map"),
    "list": ([], "holds no object"),
}


@pytest.mark.parametrize("kind", INDICES)
def test_an_index_that_is_wrong(folder: Path, kind: str) -> None:
    content, part = INDICES[kind]
    (folder / INDEX).write_text(json.dumps(content))
    assert part in refused(folder)


GENERATION = [{"eos_token_id": "end"}, {"eos_token_id": -1}, {"eos_token_id": [0, "x"]}, {"pad_token_id": 1.5}]
GENERATION += [{"temperature": "hot"}, {"top_k": [1]}, {"bos_token_id": 10**30}]


@pytest.mark.parametrize("fields", GENERATION, ids=str)
def test_a_generation_config_of_wrong_types(folder: Path, fields: dict[str, object]) -> None:
    change(folder / "generation_config.json", **fields)
    text = refused(folder)
    assert "generation_config.json" in text
    assert next(iter(fields)) in text


def test_a_model_beyond_the_free_memory_is_refused_by_its_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evolpo.recipes.runs import context

    write_tiny_model(tmp_path)
    context.check_model_memory(str(tmp_path), "bf16", True, 2)
    monkeypatch.setattr(context, "parameters", lambda folder: 10**13)
    for precision, training in (("bf16", True), ("fp32", False)):
        with pytest.raises(InputError, match=r"1e\+13 parameters; (training|sampling) takes at least .* GiB"):
            context.check_model_memory(str(tmp_path), precision, training)
