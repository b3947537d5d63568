"""`evolpo plan`: what a model needs on a cluster, before anything is loaded: parameters, memory, FLOPs, sync, speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evolpo import InputError
from evolpo.recipes.runs.checks import check_positive

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GIB = 1 << 30
STAGES = (0, 1, 2, 3)
WEIGHT, GRADIENT, OPTIMIZER = 2, 2, 12
"""Bytes a parameter: bfloat16 weight and gradient; fp32 master weight and two fp32 moments of Adam."""


@dataclass
class PlanModelConfig:
    """Which model, by the name of a preset or by a folder."""

    name: str = "ling_mini"
    """Name of a preset: ling_mini, ling_flash, ling_1t, ling_nano."""
    path: str = ""
    """Folder in Hugging Face layout, or hub name; only its config.json is read."""


@dataclass
class ClusterConfig:
    """Machines to train on."""

    gpus: int = 8
    """Accelerators in all."""
    memory_gb: float = 80.0
    """Memory of each, in GB (1e9 bytes)."""
    tflops: float = 989.0
    """Dense bfloat16 peak of each, in 1e12 operations a second; FP8 counts twice that."""
    bandwidth_gb_s: float = 50.0
    """Network bandwidth of each, in GB/s."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_positive(self, "gpus", "memory_gb", "tflops", "bandwidth_gb_s", group="cluster.")


@dataclass
class PlanConfig:
    """`evolpo plan`: a model on a cluster."""

    model: PlanModelConfig = field(default_factory=PlanModelConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    expert_parallel: int = 1
    """Ranks that share the routed experts of a layer among them."""
    precision: str = "bf16"
    """Of the products of linear layers: bf16 or fp8."""
    length: int = 4096
    """Tokens of a sequence, for the cost of attention."""
    mfu: float = 0.4
    """Share of the peak that training reaches."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.precision not in ("bf16", "fp8"):
            raise InputError(f"precision: {self.precision!r} is none of bf16, fp8")
        if not 0 < self.mfu <= 1:
            raise InputError(f"mfu: {self.mfu} is no share; give more than 0 and at most 1")
        if self.expert_parallel < 1 or self.cluster.gpus % self.expert_parallel:
            raise InputError(
                f"expert_parallel: {self.expert_parallel} does not divide cluster.gpus={self.cluster.gpus}"
            )
        check_positive(self, "length")


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


@dataclass(frozen=True)
class Plan:
    """The answers."""

    sizes: Sizes
    flops_per_token: float
    """Operations of forward and backward pass for one token of a sequence of `length`."""
    memory_gb: dict[int, float]
    """By ZeRO stage: weights, gradients and optimizer of one GPU in GB; activations and buffers come on top."""
    sync_gb: float
    """One weight update of the rollout engine, bfloat16."""
    sync_s: float
    """Its time at the cluster's bandwidth when every GPU receives its share."""
    tokens_per_s: float
    """Training tokens a second of the cluster at the given MFU."""


def main(config: PlanConfig) -> None:
    """Run `evolpo plan` from the command line."""
    print("\n".join(lines(config, plan(config))))


def read_config(config: PlanModelConfig) -> PreTrainedConfig:
    """The model's configuration.

    Raises:
        InputError: no such preset, or a folder without a readable config.json.
    """
    from transformers import AutoConfig

    from evolpo.model.config import PRESETS, preset, register

    if not config.path:
        if config.name not in PRESETS:
            raise InputError(f"model.name: {config.name!r} is none of {', '.join(PRESETS)}; or give model.path")
        return preset(config.name)
    register()
    try:
        found: PreTrainedConfig = AutoConfig.from_pretrained(config.path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"model.path: {config.path}: {' '.join(str(error).split())[:200]}") from None
    return found


def sizes_of(config: PreTrainedConfig) -> Sizes:
    """Count parameters on empty weights; multi-token prediction does not count."""
    from accelerate import init_empty_weights  # type: ignore[import-untyped]
    from transformers import AutoModelForCausalLM

    from evolpo.model.config import BailingMoeV2Config
    from evolpo.model.ling import count_parameters

    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = config.num_hidden_layers * heads * head_size
    embedding = config.vocab_size * config.hidden_size
    if isinstance(config, BailingMoeV2Config):
        sparse = config.num_hidden_layers - config.first_k_dense_replace
        routed = sparse * config.num_experts * 3 * config.hidden_size * config.moe_intermediate_size
        total, active = count_parameters(config)
        return Sizes(total, active, routed, embedding, attention)
    with init_empty_weights():
        dense = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    total = sum(p.numel() for p in dense.parameters())
    head, looking_up = dense.get_output_embeddings(), dense.get_input_embeddings()
    if config.tie_word_embeddings and head.weight is not looking_up.weight:
        total -= embedding  # empty weights are not tied
    looked_up = 0 if config.tie_word_embeddings else embedding
    return Sizes(total, total, 0, looked_up, attention)


def state_bytes(stage: int, parameters: float, ranks: int) -> float:
    """Bytes of weights, gradients and optimizer on one of `ranks` ranks (ZeRO, Rajbhandari et al. 2020, section 5)."""
    kept = {0: (1, 1, 1), 1: (1, 1, ranks), 2: (1, ranks, ranks), 3: (ranks, ranks, ranks)}[stage]
    parts = zip((WEIGHT, GRADIENT, OPTIMIZER), kept, strict=True)
    return sum(parameters * size / share for size, share in parts)


def plan(config: PlanConfig) -> Plan:
    """Answer; nothing is loaded.

    Raises:
        InputError: an unknown model, or experts that the ranks cannot share.
    """
    model = read_config(config.model)
    experts = getattr(model, "num_experts", 1)
    if experts % config.expert_parallel:
        raise InputError(f"expert_parallel: {config.expert_parallel} does not divide num_experts={experts}")
    sizes = sizes_of(model)
    gpus, cluster = config.cluster.gpus, config.cluster
    dense, routed = sizes.total - sizes.routed, sizes.routed / config.expert_parallel
    memory = {
        stage: (state_bytes(stage, dense, gpus) + state_bytes(stage, routed, gpus // config.expert_parallel)) / 1e9
        for stage in STAGES
    }
    # 2 operations a multiplication, backward twice the forward pass; a token sees half the sequence on average.
    flops = 6 * (sizes.active - sizes.embedding) + 6 * 2 * sizes.attention * config.length / 2
    peak = cluster.tflops * 1e12 * (2 if config.precision == "fp8" else 1) * gpus
    sync = sizes.total * WEIGHT / 1e9
    return Plan(sizes, flops, memory, sync, sync / gpus / cluster.bandwidth_gb_s, peak * config.mfu / flops)


def lines(config: PlanConfig, made: Plan) -> Sequence[str]:
    """The plan as a table for people."""
    name = config.model.path or config.model.name
    sizes, cluster = made.sizes, config.cluster
    share = f", experts over {config.expert_parallel}" if config.expert_parallel > 1 else ""
    result = [
        f"{name} on {cluster.gpus} GPUs of {cluster.memory_gb:g} GB{share}",
        f"parameters          {sizes.total / 1e9:.4g} B, {sizes.active / 1e9:.4g} B active,"
        f" {sizes.routed / 1e9:.4g} B in routed experts",
        f"FLOPs a token       {made.flops_per_token / 1e9:.4g} G, forward and backward at {config.length} tokens",
    ]
    for stage, memory in made.memory_gb.items():
        fits = "fits" if memory < cluster.memory_gb else "does not fit"
        result.append(f"ZeRO-{stage} model states {memory:,.1f} GB a GPU: {fits}, before activations")
    result += [
        f"weight sync         {made.sync_gb:,.1f} GB, {made.sync_s:.3g} s at {cluster.bandwidth_gb_s:g} GB/s a GPU",
        f"training            {made.tokens_per_s:,.0f} tokens/s at {config.mfu:.0%} of the {config.precision} peak",
    ]
    return result
