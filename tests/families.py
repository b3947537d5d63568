"""Tiny random models of many families in the layout of their published checkpoints; the table the matrix runs over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny_models import VOCABULARY, write_tiny_tokenizer

WINDOW = 12
"""Length of the sliding windows here: the rows of the tests are longer."""
PLAIN: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
MIXED = ["sliding_attention", "full_attention"]
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
MLA = {
    "kv_lora_rank": 512,  # with the 64 below the one size of a latent that vLLM's kernel for CPUs knows
    "q_lora_rank": 48,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    # As published. Without YaRN vLLM's build for CPUs turns the wrong part of the queries.
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
}
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True, "hidden_size": 128}),
    "qwen3": ("Qwen3Config", {"tie_word_embeddings": True}),
    "qwen3_moe": ("Qwen3MoeConfig", {**EXPERTS, "num_experts": 8, "norm_topk_prob": True}),
    "mistral": ("MistralConfig", {"sliding_window": WINDOW}),
    "gemma2": (
        "Gemma2Config",
        {
            "sliding_window": WINDOW,
            "layer_types": MIXED,
            "query_pre_attn_scalar": 32,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {"sliding_window": WINDOW, "layer_types": MIXED, "query_pre_attn_scalar": 32, "num_key_value_heads": 1},
    ),
    "phi3": ("Phi3Config", {"sliding_window": WINDOW, "hidden_size": 128, "head_dim": None, "pad_token_id": 0}),
    "phi4": ("Phi3Config", {"partial_rotary_factor": 0.5, "hidden_size": 128, "head_dim": None, "pad_token_id": 0}),
    "olmo2": ("Olmo2Config", {"hidden_size": 128, "head_dim": None}),
    "olmo3": ("Olmo3Config", {"hidden_size": 128, "head_dim": None, "sliding_window": WINDOW, "layer_types": MIXED}),
    "granite": (
        "GraniteConfig",
        {
            "hidden_size": 128,
            "head_dim": None,
            "logits_scaling": 2.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
    ),
    "glm4": ("Glm4Config", {"partial_rotary_factor": 0.5, "pad_token_id": 0}),
    "smollm3": (
        "SmolLM3Config",
        {
            "hidden_size": 128,
            "head_dim": None,
            "no_rope_layers": [1, 0],
            "pad_token_id": 0,
            "tie_word_embeddings": True,
        },
    ),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt_oss": (
        "GptOssConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": WINDOW,
            "layer_types": MIXED,
            "hidden_size": 128,
            "intermediate_size": 128,
            "head_dim": 64,
        },
    ),
    "deepseek_v3": (
        "DeepseekV3Config",
        {**EXPERTS, **MLA, "head_dim": None, "routed_scaling_factor": 2.5, "norm_topk_prob": True},
    ),
    "ling": ("", {}),
}
"""Name of the class of the configuration, and what differs from `PLAIN`."""


def make_model(family: str, seed: int = 0) -> Any:
    """A random model in float32, its biases and norms away from zero and one, so that a forgotten one shows."""
    import torch
    import transformers

    from evolpo.model.config import preset
    from evolpo.model.ling import BailingMoeV2ForCausalLM

    name, changes = FAMILIES[family]
    torch.manual_seed(seed)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if family == "ling":
        config = preset("ling_nano", vocab_size=VOCABULARY, num_hidden_layers=3, initializer_range=0.05)
        model = BailingMoeV2ForCausalLM(config)
    else:
        fields = {k: v for k, v in (dict(PLAIN) | ends | dict(changes)).items() if v is not None}
        config = getattr(transformers, name)(**fields)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for key, tensor in model.state_dict(keep_vars=True).items():
            if tensor.is_floating_point() and (tensor.dim() < 2 or "sinks" in key or "bias" in key):
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def write_model(family: str, folder: Path, seed: int = 0) -> Any:
    """Write such a model with a tokenizer, and return it."""
    model = make_model(family, seed)
    model.save_pretrained(folder)
    write_tiny_tokenizer(folder)
    return model
