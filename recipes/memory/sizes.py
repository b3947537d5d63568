"""Parameters of a model, counted from its configuration; nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Sizes:
    """What a plan is made of."""

    total: int
    """Parameters."""
    active: int
    """Parameters that a token uses."""
    routed: int
    """Parameters of routed experts, part of `total`."""
    embedding: int
    """Parameters of the token embedding, which is looked up and not multiplied."""
    attention: int
    """Layers times heads times head size: a query and a key cost so many multiplications twice."""
    cached: int
    """Numbers in the key-value cache for a token, over all layers."""
    cached_parts: int
    """Parts into which these can be divided among the ranks of an engine: key-value heads."""
    adapter: int
    """Parameters of an adapter of rank 1 on all linear layers outside routed experts: inputs and outputs of each."""
    hidden: int
    """Hidden size."""


def sizes_of(config: PreTrainedConfig) -> Sizes:
    """Count parameters on empty weights; multi-token prediction does not count."""
    from accelerate import init_empty_weights  # type: ignore[import-untyped]
    from transformers import AutoModelForCausalLM

    from evolpo.model.config import BailingMoeV2Config
    from evolpo.model.ling import BailingMoeV2ForCausalLM, count_parameters

    attention = config.num_hidden_layers * config.num_attention_heads * head_size(config)
    embedding = config.vocab_size * config.hidden_size
    model: Any
    if isinstance(config, BailingMoeV2Config):
        with torch.device("meta"):
            model = BailingMoeV2ForCausalLM(config)
    else:
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    head = model.get_output_embeddings()
    linear = (m for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    adapter = sum(layer.in_features + layer.out_features for layer in linear)
    cached, parts = cached_numbers(config), cached_parts(config)
    if isinstance(config, BailingMoeV2Config):
        sparse = config.num_hidden_layers - config.first_k_dense_replace
        routed = sparse * config.num_experts * 3 * config.hidden_size * config.moe_intermediate_size
        total, active = count_parameters(config)
        return Sizes(total, active, routed, embedding, attention, cached, parts, adapter, config.hidden_size)
    total = sum(p.numel() for p in model.parameters())
    if config.tie_word_embeddings and head.weight is not model.get_input_embeddings().weight:
        total -= embedding  # empty weights are not tied
    looked_up = 0 if config.tie_word_embeddings else embedding
    return Sizes(total, total, 0, looked_up, attention, cached, parts, adapter, config.hidden_size)


def head_size(config: PreTrainedConfig) -> int:
    """Size of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def cached_numbers(config: PreTrainedConfig) -> int:
    """Numbers that the key-value cache holds of a token: keys and values of all layers.

    With multi-head latent attention (DeepSeek-V3's) that is the latent vector and the rotary part of the key.
    """
    latent = getattr(config, "kv_lora_rank", None)
    if latent:
        return int(config.num_hidden_layers * (latent + config.qk_rope_head_dim))
    return int(config.num_hidden_layers * 2 * cached_parts(config) * head_size(config))


def cached_parts(config: PreTrainedConfig) -> int:
    """Key-value heads; 1 with latent attention, whose one vector every rank of an engine holds."""
    if getattr(config, "kv_lora_rank", None):
        return 1
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
