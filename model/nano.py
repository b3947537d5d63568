"""ling_nano: a Ling 2.0 model small enough for a laptop, with a tokenizer of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evolpo.model.config import preset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SAMPLE = (
    "detailed think on. detailed think off. <think> first, second, then, so. </think> <answer> the result. </answer>",
    "State the final answer to the following arithmetic problem: 12 + 45 - 33 =",
    "Calculate the following expression. Solve it step by step. What is the value of it?",
    "12 + 45 = 57. 57 - 33 = 24. The answer is \\boxed{24}.",
    "We add the numbers from left to right. The sum is 57, the difference is 24. Therefore the answer is 24.",
)
"""Text whose words the tokenizer learns; digits stay single tokens."""


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, trained on `SAMPLE`: the same for everyone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_text(), trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[0]
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _text() -> Iterator[str]:
    for _ in range(2):
        yield from SAMPLE


def write_ling_nano(folder: Path, seed: int = 0) -> None:
    """Write ling_nano with random weights, and its tokenizer."""
    from evolpo.model.ling import BailingMoeV2ForCausalLM

    config = preset("ling_nano", initializer_range=0.02)
    tokenizer = make_tokenizer(config.vocab_size)
    assert tokenizer.eos_token_id == config.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BailingMoeV2ForCausalLM(config)
    model.bfloat16()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
