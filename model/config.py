"""Configuration of Ling 2.0 models under the names of the public checkpoints, and presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

ARCHITECTURE = "BailingMoeV2ForCausalLM"
"""Name of the architecture in public checkpoints, in transformers and in vLLM."""


@strict
class BailingMoeV2Config(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """A Ling 2.0 model (report, section 2.1); the defaults are those of Ling-mini-2.0.

    The last four fields describe what all Ling 2.0 models share; vLLM reads them as well.
    """

    model_type = "bailing_moe"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 -- transformers adds to it
    default_theta = 600_000.0

    vocab_size: int = 157_184
    hidden_size: int = 2048
    intermediate_size: int = 5120
    moe_intermediate_size: int = 512
    num_hidden_layers: int = 20
    first_k_dense_replace: int = 1
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int | None = 128
    num_experts: int = 256
    num_experts_per_tok: int = 8
    num_shared_experts: int = 1
    n_group: int = 8
    topk_group: int = 4
    routed_scaling_factor: float = 2.5
    norm_topk_prob: bool = True
    num_nextn_predict_layers: int = 0
    mtp_loss_scaling_factor: float = 0.1
    max_position_embeddings: int = 32_768
    partial_rotary_factor: float = 0.5
    rope_parameters: dict[str, Any] | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.006
    use_cache: bool = True
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 156_892
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 156_892
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    use_bias: bool = False
    use_qkv_bias: bool = False
    use_qk_norm: bool = True
    use_rmsnorm: bool = True
    score_function: str = "sigmoid"
    router_dtype: str = "fp32"
    moe_router_enable_expert_bias: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill what follows from other fields."""
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def validate_architecture(self) -> None:
        """Check that sizes fit together and that nothing is asked for that Ling 2.0 does not have.

        Raises:
            ValueError: with the name of the field.
        """
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads: {self.num_key_value_heads} does not divide"
                f" num_attention_heads={self.num_attention_heads}"
            )
        if self.num_experts % self.n_group:
            raise ValueError(f"n_group: {self.n_group} does not divide num_experts={self.num_experts}")
        if not 0 < self.topk_group <= self.n_group:
            raise ValueError(f"topk_group: {self.topk_group} is not between 1 and n_group={self.n_group}")
        if self.num_experts // self.n_group < 2:
            raise ValueError(
                f"n_group: {self.n_group} groups of num_experts={self.num_experts} have fewer than two each"
            )
        reachable = self.topk_group * (self.num_experts // self.n_group)
        if not 0 < self.num_experts_per_tok <= reachable:
            raise ValueError(
                f"num_experts_per_tok: {self.num_experts_per_tok} is not between 1 and the {reachable} experts"
                f" of topk_group={self.topk_group} groups"
            )
        if not 0 <= self.first_k_dense_replace <= self.num_hidden_layers:
            raise ValueError(
                f"first_k_dense_replace: {self.first_k_dense_replace} is not between 0 and num_hidden_layers"
            )
        only = {
            "hidden_act": "silu",
            "use_bias": False,
            "use_qkv_bias": False,
            "use_qk_norm": True,
            "score_function": "sigmoid",
            "norm_topk_prob": True,
            "attention_dropout": 0.0,
            "embedding_dropout": 0.0,
        }
        for name, value in only.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not supported; Ling 2.0 models have {value!r}")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ling_mini": {},
    "ling_flash": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 9216,
        "moe_intermediate_size": 1024,
        "num_attention_heads": 32,
    },
    "ling_1t": {
        "num_hidden_layers": 80,
        "first_k_dense_replace": 4,
        "hidden_size": 8192,
        "intermediate_size": 18_432,
        "moe_intermediate_size": 2048,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    "ling_nano": {
        "vocab_size": 512,
        "num_hidden_layers": 5,
        "hidden_size": 192,
        "intermediate_size": 512,
        "moe_intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "num_experts": 32,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "num_nextn_predict_layers": 1,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "eos_token_id": 0,
    },
}
"""Sizes by name: the published models (Ling 2.0 report, table 1), and one that trains on a laptop."""


def preset(name: str, **changes: Any) -> BailingMoeV2Config:
    """The configuration of a preset, with fields changed.

    Raises:
        KeyError: no preset of this name.
        ValueError: the fields do not fit together.
    """
    return BailingMoeV2Config(architectures=[ARCHITECTURE], **(dict(PRESETS[name]) | changes))


def register() -> None:
    """Make transformers' AutoConfig know the configuration; vLLM calls this in each of its processes."""
    AutoConfig.register(BailingMoeV2Config.model_type, BailingMoeV2Config, exist_ok=True)
