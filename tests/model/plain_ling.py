"""A Ling 2.0 model written out token by token and expert by expert, in float64, from a checkpoint's published names."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from evolpo.model.config import BailingMoeV2Config

Weights = Mapping[str, Tensor]


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean() + eps).sqrt() * weight


def turn(head: Tensor, position: int, size: int, theta: float) -> Tensor:
    """Rotate the pairs (i, i + size / 2) of the first `size` dimensions by position * theta^(-2 i / size)."""
    turned = head.clone()
    for i in range(size // 2):
        angle = position * theta ** (-2 * i / size)
        a, b = head[i], head[i + size // 2]
        turned[i] = a * math.cos(angle) - b * math.sin(angle)
        turned[i + size // 2] = b * math.cos(angle) + a * math.sin(angle)
    return turned


def swiglu(x: Tensor, weights: Weights, base: str) -> Tensor:
    gate, up = weights[f"{base}.gate_proj.weight"] @ x, weights[f"{base}.up_proj.weight"] @ x
    return weights[f"{base}.down_proj.weight"] @ (gate / (1 + (-gate).exp()) * up)


def mixture(x: Tensor, weights: Weights, base: str, config: BailingMoeV2Config) -> Tensor:
    scores = 1 / (1 + (-(weights[f"{base}.gate.weight"] @ x)).exp())
    biased = (scores + weights[f"{base}.gate.expert_bias"]).tolist()
    size = config.num_experts // config.n_group
    groups = [range(g * size, (g + 1) * size) for g in range(config.n_group)]
    ranked = sorted(groups, key=lambda group: -sum(sorted((biased[e] for e in group), reverse=True)[:2]))
    open_experts = [e for group in ranked[: config.topk_group] for e in group]
    chosen = sorted(open_experts, key=lambda e: -biased[e])[: config.num_experts_per_tok]
    total = sum(scores[e] for e in chosen) + 1e-20
    result = swiglu(x, weights, f"{base}.shared_experts")
    for e in chosen:
        result = result + config.routed_scaling_factor * scores[e] / total * swiglu(x, weights, f"{base}.experts.{e}")
    return result


def attention(rows: list[Tensor], weights: Weights, base: str, config: BailingMoeV2Config) -> list[Tensor]:
    size, heads, kv = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    turning = int(size * config.partial_rotary_factor)
    theta = config.rope_parameters["rope_theta"]
    queries, keys, values = [], [], []
    for position, x in enumerate(rows):
        all_heads = (weights[f"{base}.query_key_value.weight"] @ x).view(heads + 2 * kv, size)
        named = {"query": all_heads[:heads], "key": all_heads[heads : heads + kv]}
        normed = {
            name: [norm(h, weights[f"{base}.{name}_layernorm.weight"], config.rms_norm_eps) for h in part]
            for name, part in named.items()
        }
        queries.append([turn(h, position, turning, theta) for h in normed["query"]])
        keys.append([turn(h, position, turning, theta) for h in normed["key"]])
        values.append(all_heads[heads + kv :])
    results = []
    for t in range(len(rows)):
        outputs = []
        for head in range(heads):
            group = head * kv // heads
            scores = torch.stack([queries[t][head] @ keys[s][group] for s in range(t + 1)]) / math.sqrt(size)
            share = scores.softmax(0)
            outputs.append(sum(share[s] * values[s][group] for s in range(t + 1)))
        results.append(weights[f"{base}.dense.weight"] @ torch.cat(outputs))
    return results


def layer(rows: list[Tensor], weights: Weights, index: int, config: BailingMoeV2Config) -> list[Tensor]:
    base, eps = f"model.layers.{index}", config.rms_norm_eps
    normed = [norm(x, weights[f"{base}.input_layernorm.weight"], eps) for x in rows]
    rows = [x + y for x, y in zip(rows, attention(normed, weights, f"{base}.attention", config), strict=True)]
    results = []
    for x in rows:
        y = norm(x, weights[f"{base}.post_attention_layernorm.weight"], eps)
        dense = index < config.first_k_dense_replace
        results.append(x + (swiglu(y, weights, f"{base}.mlp") if dense else mixture(y, weights, f"{base}.mlp", config)))
    return results


def plain_hidden(tokens: list[int], weights: Weights, config: BailingMoeV2Config) -> list[Tensor]:
    """Hidden states after the final norm."""
    rows = [weights["model.word_embeddings.weight"][token] for token in tokens]
    for index in range(config.num_hidden_layers):
        rows = layer(rows, weights, index, config)
    return [norm(x, weights["model.norm.weight"], config.rms_norm_eps) for x in rows]


def plain_logits(tokens: list[int], weights: Weights, config: BailingMoeV2Config) -> Tensor:
    """[L, V] logits of a sequence."""
    return torch.stack([weights["lm_head.weight"] @ x for x in plain_hidden(tokens, weights, config)])


def plain_mtp_logits(tokens: list[int], weights: Weights, config: BailingMoeV2Config) -> Tensor:
    """[L - 1, V] logits of multi-token prediction: row t is about token t + 2."""
    base, eps = f"model.layers.{config.num_hidden_layers}", config.rms_norm_eps
    hidden = plain_hidden(tokens, weights, config)[:-1]
    rows = []
    for h, following in zip(hidden, tokens[1:], strict=True):
        embedding = norm(weights["model.word_embeddings.weight"][following], weights[f"{base}.enorm.weight"], eps)
        both = torch.cat((embedding, norm(h, weights[f"{base}.hnorm.weight"], eps)))
        rows.append(weights[f"{base}.eh_proj.weight"] @ both)
    rows = layer(rows, weights, config.num_hidden_layers, config)
    return torch.stack(
        [weights["lm_head.weight"] @ norm(x, weights[f"{base}.final_layernorm.weight"], eps) for x in rows]
    )
