"""`evolpo plan`: what a model needs on a cluster, before anything is loaded: parameters, memory, FLOPs, sync, speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from evolpo import InputError
from evolpo.recipes.memory.needs import WEIGHT, Setting, Work, states
from evolpo.recipes.memory.presets import PRESETS as PUBLISHED
from evolpo.recipes.memory.sizes import Sizes, sizes_of
from evolpo.recipes.plan.cards import card_lines
from evolpo.recipes.runs.checks import check_not_negative, check_positive
from evolpo.recipes.runs.parallel import check_sizes
from evolpo.rl.training.config import OFFLOADS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

STAGES = (0, 1, 2, 3)


@dataclass
class PlanModelConfig:
    """Which model, by the name of a preset or by a folder."""

    name: str = "ling_mini"
    """Name of a preset: ling_mini, ling_flash, ling_1t, ling_nano, qwen2_5_0_5b, _1_5b, _7b, _14b, _32b."""
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
    """`evolpo plan`: a model on a cluster, and training it with evolpo there."""

    model: PlanModelConfig = field(default_factory=PlanModelConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    expert_parallel: int = 1
    """Ranks that share the routed experts of a layer among them."""
    precision: str = "bf16"
    """Of the products of linear layers: bf16 or fp8."""
    mfu: float = 0.4
    """Share of the peak that training reaches."""
    max_prompt_tokens: int = 1024
    """Tokens of the longest prompt."""
    max_response_tokens: int = 3072
    """Tokens of the longest response."""
    responses_per_prompt: int = 8
    """Responses to each prompt: the group."""
    tokens_per_micro_batch: int = 0
    """Most tokens in one forward and backward pass; 0: the longest prompt with its response."""
    zero_stage: int = 1
    """ZeRO stage."""
    offload: str = "none"
    """Where optimizer states are: none, on the card; rollout, away while the engine samples; always away."""
    activation_checkpointing: bool = True
    """Recompute activations in the backward pass."""
    lora_rank: int = 0
    """Rank of adapters on all linear layers outside routed experts; 0: all weights are trained."""
    tensor_parallel: int = 1
    """GPUs that share an engine, each with a part of every weight; 1: each has an engine of its own."""
    kl_penalty: bool = False
    """Whether there is a KL penalty, hence a reference model."""
    kv_cache_gb: float = 0.0
    """The engine's key-value cache, GB a card; 0: what is left."""

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
        if self.tensor_parallel < 1 or self.cluster.gpus % self.tensor_parallel:
            raise InputError(
                f"tensor_parallel: {self.tensor_parallel} does not divide cluster.gpus={self.cluster.gpus}"
            )
        if self.zero_stage not in (0, 1, 2, 3):
            raise InputError(f"zero_stage: {self.zero_stage} is none of 0, 1, 2, 3")
        if self.offload not in OFFLOADS:
            raise InputError(f"offload: {self.offload!r} is none of {', '.join(OFFLOADS)}")
        check_positive(self, "max_prompt_tokens", "max_response_tokens", "responses_per_prompt")
        check_not_negative(self, "tokens_per_micro_batch", "lora_rank", "kv_cache_gb")
        if 0 < self.tokens_per_micro_batch < self.length:
            raise InputError(
                f"tokens_per_micro_batch: {self.tokens_per_micro_batch} holds no prompt and response; "
                f"give at least {self.length}, or 0"
            )

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return self.max_prompt_tokens + self.max_response_tokens

    def setting(self) -> Setting:
        """What decides about memory."""
        tokens = self.tokens_per_micro_batch or self.length
        work = Work(self.max_prompt_tokens, self.max_response_tokens, self.responses_per_prompt, tokens)
        return Setting(
            ranks=self.cluster.gpus,
            work=work,
            zero_stage=self.zero_stage,
            checkpointing=self.activation_checkpointing,
            offload=self.offload,
            lora_rank=self.lora_rank,
            expert_parallel=self.expert_parallel,
            tensor_parallel=self.tensor_parallel,
            reference=self.kl_penalty,
        )


@dataclass(frozen=True)
class Plan:
    """The answers."""

    sizes: Sizes
    flops_per_token: float
    """Operations of forward and backward pass for one token of a sequence of `length`."""
    memory_gb: dict[int, float]
    """By ZeRO stage: weights, gradients and optimizer of one GPU in GB; activations and buffers come on top."""
    sync_gb: float
    """One weight update of the rollout engine, bfloat16; with adapters, theirs."""
    sync_s: float
    """Its time at the cluster's bandwidth when every GPU receives its share."""
    tokens_per_s: float
    """Training tokens a second of the cluster at the given MFU."""


def main(config: PlanConfig) -> None:
    """Run `evolpo plan` from the command line."""
    made = plan(config)
    model = read_config(config.model)
    cards = card_lines(model, made.sizes, config.setting(), config.cluster.memory_gb * 1e9, config.kv_cache_gb * 1e9)
    print("\n".join([*lines(config, made), "", *cards]))


def read_config(config: PlanModelConfig) -> PreTrainedConfig:
    """The model's configuration.

    Raises:
        InputError: no such preset, or a folder without a readable config.json.
    """
    from transformers import AutoConfig

    from evolpo.model.config import PRESETS, preset, register

    if not config.path:
        if config.name in PUBLISHED:
            fields = dict(PUBLISHED[config.name])
            return AutoConfig.for_model(fields.pop("model_type"), **fields)
        if config.name not in PRESETS:
            known = ", ".join((*PRESETS, *PUBLISHED))
            raise InputError(f"model.name: {config.name!r} is none of {known}; or give model.path")
        return preset(config.name)
    register()
    try:
        found: PreTrainedConfig = AutoConfig.from_pretrained(config.path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"model.path: {config.path}: {' '.join(str(error).split())[:200]}") from None
    return found


def plan(config: PlanConfig) -> Plan:
    """Answer; nothing is loaded.

    Raises:
        InputError: an unknown model, or experts that the ranks cannot share, or heads.
    """
    model = read_config(config.model)
    check_sizes("tensor_parallel", config.tensor_parallel, model.to_dict())
    experts = getattr(model, "num_experts", 1)
    if experts % config.expert_parallel:
        raise InputError(f"expert_parallel: {config.expert_parallel} does not divide num_experts={experts}")
    sizes = sizes_of(model)
    gpus, cluster = config.cluster.gpus, config.cluster
    memory = {}
    for stage in STAGES:
        held = states(sizes, replace(config.setting(), zero_stage=stage))
        memory[stage] = (held["weights"] + held["gradients"] + held["optimizer"]) / 1e9
    # 2 operations a multiplication, backward twice the forward pass; a token sees half the sequence on average.
    flops = 6 * (sizes.active - sizes.embedding) + 6 * 2 * sizes.attention * config.length / 2
    peak = cluster.tflops * 1e12 * (2 if config.precision == "fp8" else 1) * gpus
    trained = config.lora_rank * sizes.adapter if config.lora_rank else sizes.total
    sync = trained * WEIGHT["bf16"] / 1e9
    return Plan(sizes, flops, memory, sync, sync / gpus / cluster.bandwidth_gb_s, peak * config.mfu / flops)


def lines(config: PlanConfig, made: Plan) -> Sequence[str]:
    """The plan as a table for people."""
    name = config.model.path or config.model.name
    sizes, cluster = made.sizes, config.cluster
    share = f", experts over {config.expert_parallel}" if config.expert_parallel > 1 else ""
    result = [
        f"{name} on {cluster.gpus} GPU{'s' * (cluster.gpus > 1)} of {cluster.memory_gb:g} GB{share}",
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
