"""Tokenizers of many kinds, and generation settings, from a folder and back."""

import json

import pytest
import torch
from families import make_model
from tiny_models import write_tiny_model

from evolpo import InputError
from evolpo.model import load_model, load_tokenizer
from evolpo.model.names import published, save_model
from evolpo.rl.segment import unit_texts


def sentencepiece_folder(folder, **config):
    import sentencepiece

    text = folder / "text"
    text.write_text("one and two is three\nso the sum is three\nadd the numbers, then check\n" * 40)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=80,
        model_type="bpe",
        minloglevel=2,
        hard_vocab_limit=False,
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"} | config))


def test_sentencepiece_without_a_fast_form_is_converted(tmp_path):
    sentencepiece_folder(tmp_path, eos_token="</s>")
    tokenizer = load_tokenizer(str(tmp_path))
    ids = tokenizer("so the sum is three", add_special_tokens=False)["input_ids"]
    assert tokenizer.pad_token_id is None
    assert "".join(unit_texts(ids, [0] * len(ids), tokenizer)).strip() == "so the sum is three"


def choose(folder, name):
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "tokenizer.model").unlink(), "has no vocabulary"),
        (lambda folder: (folder / "tokenizer.model").write_bytes(b"\x00\x80"), "does not load"),
        (lambda folder: choose(folder, "BertJapaneseTokenizer"), "does not load|no fast form"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_one_line(tmp_path, spoil, message):
    sentencepiece_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_tokenizer(str(tmp_path))
    assert str(caught.value).count("\n") == 0


def test_ids_beyond_the_tokenizer_have_no_text(tiny_model_path):
    tokenizer = load_tokenizer(tiny_model_path)
    ids = [5, 299, 6]
    assert len(tokenizer) < 299
    assert tokenizer.decode(ids) == tokenizer.decode([5, 6])
    assert "".join(unit_texts(ids, [0, 0, 0], tokenizer)) == tokenizer.decode([5, 6])


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.6, "top_p": 0.9},
        {"temperature": 0.6, "do_sample": True, "eos_token_id": [0, 3]},
        {"top_k": 20, "do_sample": False, "repetition_penalty": 1.05},
    ],
)
@pytest.mark.parametrize("family", ["llama", "ling"])
def test_generation_settings_with_sampling_are_saved_as_they_are(tmp_path, fields, family):
    folder, saved = tmp_path / "model", tmp_path / "saved"
    folder.mkdir()
    write_tiny_model(folder)
    if family == "ling":
        make_model("ling").save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(fields))
    model = load_model(str(folder), torch.float32)
    save_model(model, saved, published(model, model.state_dict().items()))
    found = json.loads((saved / "generation_config.json").read_text())
    assert {key: found[key] for key in fields if key in found} == {k: v for k, v in fields.items() if k in found}
    assert set(fields) - set(found) <= {"do_sample"}  # false is the default
    load_model(str(saved), torch.float32)
