"""`evolpo model check`: a table for every kind of folder, or one line that says what it is instead."""

import json
import shutil
from pathlib import Path

import pytest
from families import write_model
from tiny_models import write_tiny_model, write_tiny_tokenizer
from transformers import Qwen3NextConfig

from evolpo import InputError
from evolpo.model import ModelConfig
from evolpo.model.support import check_folder
from evolpo.recipes import model as command
from evolpo.recipes.config import ModelCheckConfig


def check(path, capsys) -> str:
    command.check(ModelCheckConfig(ModelConfig(path=str(path))))
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("gemma2", ["window of 12 tokens in 1 of 2 layers", "scores capped at 5", "logits capped at 3", "tied"]),
        ("gpt_oss", ["GptOssForCausalLM (gpt_oss)", "sinks", "experts 4, 2 a token"]),
        ("deepseek_v3", ["multi-head latent", "8, 2 a token, 1 shared"]),
        ("granite", ["logits times 0.5", "plain causal"]),
        ("ling", ["32, 4 a token, 1 shared", "BailingMoeV2ForCausalLM"]),
    ],
)
def test_the_table_says_what_a_model_is(tmp_path, capsys, family, parts):
    write_model(family, tmp_path / family)
    out = check(tmp_path / family, capsys)
    assert all(part in out for part in [*parts, "trains it", "equal to the model's own within"]), out
    assert "ends an answer with <|end|> (0)" in out


def test_ends_vocabulary_and_hidden_markers(tmp_path, capsys):
    write_tiny_model(tmp_path, vocab_size=310)
    change(tmp_path / "generation_config.json", eos_token_id=[0, 3])
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    think = {"id": 298, "content": "<think>", "special": True, "single_word": False, "lstrip": False, "rstrip": False}
    tokenizer["added_tokens"].append(think | {"normalized": False})
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    change(tmp_path / "tokenizer_config.json", extra_special_tokens=["<think>"])
    out = check(tmp_path, capsys)
    assert "299 tokens, 310 embeddings" in out
    assert "responses end at <|end|> (0), <|assistant|> (3)" in out
    assert "<think>: rewards see them with rollout.special_tokens=true" in out


def change(file: Path, **fields) -> None:
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({k: v for k, v in (found | fields).items() if v is not None}))


def adapter(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    change(folder / "adapter_config.json", base_model_name_or_path="org/base")
    (folder / "adapter_model.safetensors").touch()


def gguf(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "weights-Q4.gguf").touch()


def pickles(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def config(**fields):
    return lambda folder: change(folder / "config.json", **fields)


REFUSED = {
    "adapter": (adapter, ["is an adapter of org/base", "merge"]),
    "gguf": (gguf, ["holds GGUF weights", "gguf_file='weights-Q4.gguf'"]),
    "pickles": (pickles, ["as *.bin"]),
    "empty": (lambda folder: (folder / "model.safetensors").unlink(), ["no *.safetensors"]),
    "no_tokenizer": (lambda folder: (folder / "tokenizer_config.json").unlink(), ["no tokenizer_config.json"]),
    "multimodal": (
        config(architectures=["Gemma3ForConditionalGeneration"], model_type="gemma3", vision_config={}, text_config={}),
        ["is multimodal (Gemma3ForConditionalGeneration)"],
    ),
    "mxfp4": (config(quantization_config={"quant_method": "mxfp4"}), ["quantised weights (mxfp4)", "dequantised copy"]),
    "fp8": (config(quantization_config={"quant_method": "fp8"}), ["quantised weights (fp8)"]),
    "unknown": (config(model_type="nobody_knows"), ["nobody_knows", "does not know"]),
    "own_code": (config(model_type="own", auto_map={"AutoModel": "x.Y"}), ["code of its own", "does not run"]),
    "encoder_decoder": (config(model_type="t5", architectures=["T5ForConditionalGeneration"]), ["t5", "no causal"]),
    "mamba": (config(model_type="mamba", architectures=["MambaForCausalLM"]), ["not attention alone"]),
    "no_type": (config(model_type=None), ["without model_type"]),
    "no_json": (lambda folder: (folder / "config.json").write_text("{"), ["is no JSON"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_model_of_text_is_named_in_one_line(tmp_path, capsys, kind):
    folder = tmp_path / "model"
    folder.mkdir()
    write_tiny_model(folder)
    spoil, parts = REFUSED[kind]
    spoil(folder)
    with pytest.raises(InputError) as caught:
        check_folder(folder)
    with pytest.raises(InputError) as shown:
        check(folder, capsys)
    assert str(shown.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model.path: ")
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_linear_attention_is_shown_and_refused_before_anything_is_loaded(tmp_path, capsys):
    Qwen3NextConfig(architectures=["Qwen3NextForCausalLM"]).save_pretrained(tmp_path)
    write_tiny_tokenizer(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match=r"not attention alone \(linear_attention\)"):
        check(tmp_path, capsys)
    assert "linear attention in 36 of 48 layers" in " ".join(capsys.readouterr().out.split())


def test_missing_tensors_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    from evolpo.model import load_model

    write_tiny_model(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"1 tensors are missing: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(tmp_path))


def test_code_that_a_folder_brings_is_not_run(tmp_path, capsys, monkeypatch):
    write_tiny_model(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text()) | {"model_type": "of_its_own", "auto_map": {"AutoConfig": "own.Config"}}
    path.write_text(json.dumps(config))
    (tmp_path / "model" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # to whoever asks
    with pytest.raises(InputError, match="code of its own"):
        check(tmp_path / "model", capsys)
    assert not (tmp_path / "ran").exists()
