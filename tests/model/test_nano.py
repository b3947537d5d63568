"""The model that comes with evolpo: it loads, it is small, and it does sums in sentences."""

import math
from pathlib import Path

import pytest
import torch

from evolpo.model import load_model, load_tokenizer
from evolpo.model.loading import ModelConfig, model_folder


@pytest.fixture(scope="module")
def folder():
    return Path(model_folder(ModelConfig(name="ling_nano")))


@pytest.mark.parametrize("terms", [(34, 58), (7, -3, 4), (9, 8, -5, 6)])
def test_it_works_sums_out(folder, terms):
    model, tokenizer = load_model(str(folder), torch.float32), load_tokenizer(str(folder))
    text = " ".join([str(terms[0]), *(f"{'-' if term < 0 else '+'} {abs(term)}" for term in terms[1:])])
    messages = [
        {"role": "system", "content": "detailed think off"},
        {"role": "user", "content": f"State the final answer to the following arithmetic problem: {text} ="},
    ]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    [whole] = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False)
    answer = tokenizer.decode(whole[ids.shape[1] :], skip_special_tokens=True)
    assert answer.endswith(f"The answer is \\boxed{{{sum(terms)}}}."), answer
    assert answer.count("=") == len(terms) - 1  # a sentence a step


def test_it_is_small_and_whole(folder):
    assert sum(file.stat().st_size for file in folder.iterdir()) < 16e6
    model = load_model(str(folder), torch.bfloat16)
    assert all(math.isfinite(parameter.float().sum()) for parameter in model.parameters())
    assert model.config.num_experts >= 32
