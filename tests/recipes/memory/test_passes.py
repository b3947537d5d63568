"""What a traced pass is said to keep, against what real tensors keep for the backward pass, by autograd's own hooks."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

from evolpo.model.config import preset
from evolpo.model.ling import BailingMoeV2ForCausalLM
from evolpo.recipes.memory.needs import Work
from evolpo.recipes.memory.passes import largest_batch, traced_pass
from evolpo.recipes.memory.sizes import head_size
from evolpo.rl.logprobs import CHUNK, Policy

WORK = Work(prompt_tokens=24, response_tokens=40, responses=4, tokens=400)
SMALL = {"vocab_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "attn_implementation": "eager"}


def llama(**sizes):
    return LlamaConfig(**SMALL | sizes)


CONFIGS = {
    "tiny": lambda: llama(hidden_size=32, intermediate_size=64, num_hidden_layers=2),
    "small": lambda: llama(hidden_size=192, intermediate_size=512, num_hidden_layers=6),
    "tied": lambda: llama(hidden_size=64, intermediate_size=256, num_hidden_layers=5, tie_word_embeddings=True),
    "ling_nano": lambda: preset("ling_nano", num_nextn_predict_layers=0),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SMALL, hidden_size=64, head_dim=16, num_hidden_layers=4, moe_intermediate_size=32, num_experts=8,
        num_experts_per_tok=2, intermediate_size=64,
    ),
}  # fmt: skip


def kept_by_real_tensors(config, dtype, checkpointing):
    """Bytes that the backward pass of a real model needs, parameters aside, and whatever is shared once."""
    torch.manual_seed(0)
    ours = config.model_type == "bailing_moe"
    model = BailingMoeV2ForCausalLM(config) if ours else AutoModelForCausalLM.from_config(config)
    policy = Policy(model.to(dtype).train(False))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        policy.train()
    own = {p.untyped_storage().data_ptr() for p in (*policy.parameters(), *policy.buffers())}
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs, *_ = policy(largest_batch(WORK))
    logprobs.sum().backward()
    return sum(storage.nbytes() for address, storage in saved.items() if address not in own)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("small", torch.bfloat16), ("ling_nano", torch.bfloat16), *((n, torch.float32) for n in CONFIGS)],
)
def test_kept_bytes_are_those_of_real_tensors(name, dtype, checkpointing):
    config = CONFIGS[name]()
    said = traced_pass(config, WORK, dtype, checkpointing)
    real = kept_by_real_tensors(config, dtype, checkpointing)
    logits = len(largest_batch(WORK).targets) * config.vocab_size * dtype.itemsize  # the head holds its chunk
    tables = WORK.tokens * 2 * head_size(config) * 4  # cosines and sines, which closures hold and hooks do not see
    assert said.kept == pytest.approx(real + logits, rel=0.1, abs=tables)
    assert said.peak > said.kept


def test_the_rule_of_thumb_of_a_7b_model():
    """230 KB a token and layer of Qwen2.5-7B without recomputation, twice the hidden size in bytes with it."""
    config = AutoConfig.for_model(
        "qwen2", vocab_size=152_064, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4,
    )  # fmt: skip
    work = Work(512, 1536, 1, 2048)
    logits = 1536 % (2 * CHUNK) * 152_064 * 2  # of the head's last chunk
    kept = [traced_pass(config, work, torch.bfloat16, checkpointing).kept for checkpointing in (False, True)]
    all_kept, recomputed = ((total - logits) / 2048 / 28 for total in kept)
    assert all_kept == pytest.approx(233_000, rel=0.02)
    assert recomputed == pytest.approx(2 * 3584, rel=0.2)


def test_a_frozen_head_needs_no_gradient_of_its_weight():
    config = CONFIGS["tiny"]()
    config.vocab_size = 50_000
    whole, frozen = (traced_pass(config, WORK, torch.float32, True, adapters).peak for adapters in (False, True))
    assert whole - frozen == pytest.approx(50_000 * 32 * 4, rel=0.01)


def test_layers_of_two_kinds_are_counted_in_their_order():
    """A dense layer before sparse ones: the whole model gives what two short ones are stretched to."""
    config = preset("ling_nano", num_nextn_predict_layers=0, num_hidden_layers=9)
    stretched = traced_pass(config, WORK, torch.float32, False)
    config.num_hidden_layers = 3
    short = traced_pass(config, WORK, torch.float32, False)
    config.num_hidden_layers = 4
    longer = traced_pass(config, WORK, torch.float32, False)
    assert stretched.kept == pytest.approx(short.kept + 6 * (longer.kept - short.kept), rel=1e-6)


def test_nothing_stays_replaced():
    from evolpo.model import attention, experts, kernels

    before = attention.causal_attention, experts.plan, kernels.Visibility.table, torch.bincount
    traced_pass(CONFIGS["tiny"](), WORK, torch.float32, False)
    assert (attention.causal_attention, experts.plan, kernels.Visibility.table, torch.bincount) == before
