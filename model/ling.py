"""The Ling 2.0 language model (report, section 2): sparse experts behind grouped-query attention with QK-Norm.

A transformers model of the architecture that public checkpoints call `BailingMoeV2ForCausalLM`, with their names of
parameters; the experts' weights are stacked in memory and separate on disk (`evolpo.model.weights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from evolpo.model.config import BailingMoeV2Config
from evolpo.model.experts import Experts, Router
from evolpo.model.weights import Cut, load_weights, save_weights


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, keeping the precision of `x`."""
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Rotary(nn.Module):
    """Angles of the rotary embedding of the first `partial_rotary_factor` of each head; YaRN if configured."""

    inverse_frequencies: Tensor

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__()
        self.config = config
        self.scaling = 1.0
        with torch.device("cpu"):  # never on the meta device: no checkpoint fills it
            self.register_buffer("inverse_frequencies", self._frequencies(), persistent=False)

    def _frequencies(self) -> Tensor:
        assert self.config.rope_parameters is not None
        parameters, head_dim = self.config.rope_parameters, self.config.head_dim
        if parameters["rope_type"] != "default":
            frequencies, self.scaling = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](self.config, torch.device("cpu"))
            assert isinstance(frequencies, Tensor)
            return frequencies
        size = int(head_dim * parameters["partial_rotary_factor"])
        return torch.pow(parameters["rope_theta"], -torch.arange(0, size, 2, dtype=torch.float32) / size)

    def _apply(self, fn: Any, recurse: bool = True) -> Rotary:
        """Move like any module, but keep the frequencies in float32: a bfloat16 angle of position 1000 is wrong."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.inverse_frequencies = self._frequencies().to(self.inverse_frequencies.device)
        return self

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B, 1, L, R] of positions [B, L]."""
        angles = positions[:, None, :, None].float() * self.inverse_frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * self.scaling).to(dtype), (angles.sin() * self.scaling).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first R dimensions of every head [B, heads, L, D]; the two halves of R form the pairs."""
    turning, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turning.chunk(2, dim=-1)
    return torch.cat((turning * cos + torch.cat((-second, first), dim=-1) * sin, rest), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention with one fused projection and norms on queries and keys."""

    is_causal = True

    def __init__(self, config: BailingMoeV2Config, layer: int) -> None:
        super().__init__()
        assert config.head_dim is not None
        self.config, self.layer_idx = config, layer
        self.head_dim = config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.num_key_value_groups = self.heads // self.kv_heads
        self.scaling = self.head_dim**-0.5
        size = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.query_key_value = nn.Linear(config.hidden_size, size, bias=False)
        self.query_layernorm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.key_layernorm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.dense = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def forward(
        self,
        hidden: Tensor,
        angles: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        **kwargs: Any,
    ) -> Tensor:
        """[B, L, H] -> [B, L, H]."""
        heads = self.query_key_value(hidden).unflatten(2, (-1, self.head_dim))  # [B, L, heads + 2 kv, D]
        query, key, value = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=2)
        query = rotate(self.query_layernorm(query).transpose(1, 2), *angles)
        key = rotate(self.key_layernorm(key).transpose(1, 2), *angles)
        value = value.transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        name = self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, ALL_ATTENTION_FUNCTIONS["sdpa"])
        output, _ = attend(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
        return self.dense(output.flatten(2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Dense SwiGLU: the leading layers, and the shared expert."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


def separate_experts(experts: Experts) -> nn.ModuleList:
    """Experts as modules of their own with copies of their weights, for `experts_by_loop`."""
    result = nn.ModuleList()
    for gate_up, down in zip(experts.gate_up_proj, experts.down_proj, strict=True):
        hidden, intermediate = down.shape
        expert = MLP(hidden, intermediate).to(down.dtype)
        gate, up = gate_up.chunk(2)
        for linear, weight in ((expert.gate_proj, gate), (expert.up_proj, up), (expert.down_proj, down)):
            linear.weight.data.copy_(weight.detach())
        result.append(expert)
    return result


class SparseMLP(nn.Module):
    """Routed experts and the shared expert."""

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config.num_experts, config.hidden_size, config.moe_intermediate_size)
        shared = config.moe_intermediate_size * config.num_shared_experts
        self.shared_experts = MLP(config.hidden_size, shared) if shared else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, H] -> [B, L, H]."""
        flat = x.flatten(0, 1)
        result = self.experts(flat, *self.gate(flat)).view_as(x)
        return result if self.shared_experts is None else result + self.shared_experts(x)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One pre-norm transformer layer; the first `first_k_dense_replace` are dense."""

    def __init__(self, config: BailingMoeV2Config, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        dense = layer < config.first_k_dense_replace
        self.mlp = MLP(config.hidden_size, config.intermediate_size) if dense else SparseMLP(config)

    def forward(self, hidden: Tensor, **kwargs: Any) -> Tensor:
        """[B, L, H] -> [B, L, H]."""
        hidden = hidden + self.attention(self.input_layernorm(hidden), **kwargs)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))  # type: ignore[no-any-return]


class MTPLayer(Layer):
    """Multi-token prediction (report, section 2.1): one more layer that looks one token further."""

    def __init__(self, config: BailingMoeV2Config, layer: int) -> None:
        super().__init__(config, layer)
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.final_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def combine(self, next_embedding: Tensor, hidden: Tensor) -> Tensor:
        """Input of the layer from the next token's embedding and the hidden state, both [B, L, H]."""
        return self.eh_proj(torch.cat((self.enorm(next_embedding), self.hnorm(hidden)), dim=-1))  # type: ignore[no-any-return]


class LingPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What transformers wants to know."""

    config_class = BailingMoeV2Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["Layer", "MTPLayer"]  # noqa: RUF012 -- as transformers types it

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Embedding, Router)):
            module.weight.normal_(0.0, std)
        elif isinstance(module, Experts):
            module.gate_up_proj.normal_(0.0, std)
            module.down_proj.normal_(0.0, std)


class LingModel(LingPreTrainedModel):
    """Embeddings, layers and the final norm; the MTP layers come last in `layers` and are not run here."""

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        count, extra = config.num_hidden_layers, config.num_nextn_predict_layers
        layers = [Layer(config, i) for i in range(count)] + [MTPLayer(config, count + i) for i in range(extra)]
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = Rotary(config)
        self.gradient_checkpointing = False
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings."""
        assert isinstance(value, nn.Embedding)
        self.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, L, H] after the final norm."""
        if inputs_embeds is None:
            assert input_ids is not None, "give input_ids or inputs_embeds"
            inputs_embeds = self.word_embeddings(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(seen, seen + inputs_embeds.shape[1], device=inputs_embeds.device)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        angles = self.rotary(position_ids, inputs_embeds.dtype)
        hidden = inputs_embeds
        for layer in self.layers[: self.config.num_hidden_layers]:
            given = {"angles": angles, "attention_mask": mask, "past_key_values": past_key_values} | kwargs
            if self.gradient_checkpointing and self.training:
                hidden = torch.utils.checkpoint.checkpoint(layer, hidden, use_reentrant=False, **given)
            else:
                hidden = layer(hidden, **given)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)


class BailingMoeV2ForCausalLM(LingPreTrainedModel, GenerationMixin):
    """A Ling 2.0 model with its LM head."""

    def __init__(self, config: BailingMoeV2Config) -> None:
        super().__init__(config)
        self.model = LingModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_output_embeddings(self) -> nn.Module:
        """The LM head."""
        head: nn.Module = self.lm_head
        return head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the LM head."""
        assert isinstance(value, nn.Linear)
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, L, V], of the last `logits_to_keep` positions if that is not 0; with `labels` also the loss."""
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=output.past_key_values)

    def look_further(self, hidden: Tensor, input_ids: Tensor, position_ids: Tensor, **kwargs: Any) -> Tensor:
        """Hidden states of multi-token prediction: at token t, of the distribution of token t + 2.

        Args:
            hidden: [B, L, H] hidden states after the final norm.
            input_ids, position_ids: [B, L] tokens and their positions.
            kwargs: for the attention.

        Returns:
            [B, L, H]; each row's last place has seen no next token and is without meaning.
        """
        layer = self.model.layers[-1]
        assert isinstance(layer, MTPLayer), "the model has no layer for multi-token prediction"
        following = self.model.word_embeddings(input_ids.roll(-1, dims=1))
        combined = layer.combine(following, hidden)
        angles = self.model.rotary(position_ids, hidden.dtype)
        output = layer(combined, angles=angles, attention_mask=None, past_key_values=None, **kwargs)
        return layer.final_layernorm(output)  # type: ignore[no-any-return]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, path: str | Path, dtype: torch.dtype = torch.bfloat16, cut: Cut | None = None, **_: Any
    ) -> BailingMoeV2ForCausalLM:
        """Load a folder or hub name with one tensor an expert, as published; see `evolpo.model.weights`."""
        config = BailingMoeV2Config.from_pretrained(path)
        with torch.device("meta"):
            model = cls(config)
        load_weights(model, path, dtype, cut)
        with suppress(OSError):  # a checkpoint need not have one
            model.generation_config = GenerationConfig.from_pretrained(path)
        model.train(False)
        return model

    def save_pretrained(  # type: ignore[override]
        self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None, **_: Any
    ) -> None:
        """Write a folder with one tensor an expert, as published."""
        save_weights(self, folder, state_dict)


def count_parameters(config: BailingMoeV2Config) -> tuple[int, int]:
    """Parameters in all, and those that a token uses, without allocating any; MTP layers do not count.

    Of the routed experts a token uses `num_experts_per_tok`. The report counts neither the embedding of 156 K tokens as
    inactive nor the LM head: both are active in its figures.
    """
    with torch.device("meta"):
        model = BailingMoeV2ForCausalLM(config)
    layers = model.model.layers[: config.num_hidden_layers]
    outside = (model.model.word_embeddings, model.model.norm, model.lm_head)
    total = sum(p.numel() for part in (*layers, *outside) for p in part.parameters())
    routed = sum(p.numel() for m in layers.modules() if isinstance(m, Experts) for p in m.parameters())
    return total, total - routed + routed * config.num_experts_per_tok // config.num_experts
