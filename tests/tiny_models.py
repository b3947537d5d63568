"""Writers of tiny random models with a tokenizer."""

from pathlib import Path

VOCABULARY = 300
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = ["one and two is three. so the sum is three.", "add the numbers; then check the sum! the answer is 3.14"]


def write_tiny_tokenizer(folder: Path) -> int:
    """Write a byte-level BPE tokenizer with a chat template; returns the id of its end-of-sequence token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast.eos_token_id


def write_tiny_model(folder: Path, seed: int = 0, **changes: object) -> None:
    """Write a random Llama of two layers, hidden size 32, four heads on two key-value heads, or as `changes` say."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    end = write_tiny_tokenizer(folder)
    torch.manual_seed(seed)
    fields: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,  # far from uniform predictions
        "tie_word_embeddings": False,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    config = LlamaConfig(**fields | changes)
    LlamaForCausalLM(config).save_pretrained(folder)


def write_tiny_ling(folder: Path, layers: int) -> None:
    """Write a random Ling 2.0 model of so many layers, hidden size 32, eight experts in four groups."""
    import torch

    from evolpo.model.config import preset
    from evolpo.model.ling import BailingMoeV2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "head_dim": 16}
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "n_group": 4, "topk_group": 2}
    torch.manual_seed(0)
    config = preset(
        "ling_nano", vocab_size=VOCABULARY, num_hidden_layers=layers, initializer_range=0.2, **sizes, **experts
    )
    BailingMoeV2ForCausalLM(config).save_pretrained(folder)
    write_tiny_tokenizer(folder)
