"""What one card holds while the engine samples and while the trainer trains.

Of N parameters on W ranks, in bytes, with weights w, gradients g and optimizer states o a parameter, each divided by W
where its ZeRO stage shards it (Rajbhandari et al. 2020, section 5):

    rollout   N (w + o) of the trainer + N w / T of the engine + key-value cache + 4 GB
    training  N (w + g + o) + the larger of a pass and the step's fp32 gradients + DeepSpeed's buckets + 2 GB

T ranks share an engine: each has that part of its weights, and of what the cache holds of a token, unless there are
fewer key-value heads than ranks. The trainer's states stay where they are while the engine samples, unless they are
offloaded; the engine sleeps while the trainer trains. On a CPU nothing sleeps, and all ranks share one memory. The 4 GB
are the engine's graphs, workspaces and activations, the 2 GB the libraries' and what the allocator loses: [ours],
estimates. Loading takes no more: in ZeRO stage 3 a rank keeps its share of each parameter as it is read
(`evolpo.rl.training.sharded`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from evolpo.recipes.memory.sizes import Sizes
from evolpo.rl.training.buckets import held_bytes

WEIGHT = {"bf16": 2, "fp32": 4}
"""Bytes of a weight, and of a gradient where these are not summed in fp32, as they are from ZeRO stage 1 on."""
OPTIMIZER = 12
"""Bytes a parameter: fp32 master weight and two fp32 moments of Adam."""
STEP = 4
"""Bytes a parameter of a rank's share: its gradients in fp32, at the optimizer step."""
OTHER_ROLLOUT, OTHER_TRAINING = 4e9, 2e9


@dataclass(frozen=True)
class Work:
    """What a micro-batch holds at the most."""

    prompt_tokens: int
    """Of the longest prompt."""
    response_tokens: int
    """Of the longest response."""
    responses: int
    """To a prompt."""
    tokens: int
    """In a micro-batch, a prompt counted once for its responses."""


@dataclass(frozen=True)
class Setting:
    """How a run is laid out."""

    ranks: int
    """Cards; on a CPU, processes."""
    work: Work
    precision: str = "bf16"
    zero_stage: int = 1
    checkpointing: bool = False
    offload: str = "none"
    lora_rank: int = 0
    """Rank of adapters on all linear layers outside routed experts; 0: all weights are trained."""
    expert_parallel: int = 1
    tensor_parallel: int = 1
    """Ranks that share an engine."""
    background: bool = False
    """Whether checkpoints are written from a copy, beside the next steps."""
    reference: bool = False
    """Whether a reference model is held beside: that of a KL penalty, unless adapters can be left out."""

    def with_tokens(self, tokens: int) -> Setting:
        """The same with other micro-batches."""
        return replace(self, work=replace(self.work, tokens=tokens))


@dataclass(frozen=True)
class Needs:
    """Bytes of one card by part, in both phases."""

    rollout: dict[str, float]
    """Without the key-value cache."""
    training: dict[str, float]
    machine: float
    """Bytes of the machine's memory for what is offloaded, and copied for a checkpoint, over all ranks."""

    @property
    def most(self) -> float:
        """Of the phase that needs more, the cache aside."""
        return max(sum(self.rollout.values()), sum(self.training.values()))


def shares(setting: Setting) -> dict[str, float]:
    """By what a rank's weights, gradients and optimizer states are divided, for parameters that all ranks have."""
    stage, ranks = setting.zero_stage, setting.ranks
    return {
        "weights": ranks if stage == 3 else 1,
        "gradients": ranks if stage >= 2 else 1,
        "optimizer": ranks if stage >= 1 else 1,
    }


def states(sizes: Sizes, setting: Setting) -> dict[str, float]:
    """Bytes of weights, gradients and optimizer states of one rank; routed experts may be spread over ranks."""
    spread = setting.expert_parallel
    parts = [(float(sizes.total - sizes.routed), shares(setting))]
    parts.append((sizes.routed / spread, shares(replace(setting, ranks=setting.ranks // spread))))
    width = WEIGHT[setting.precision]
    result = {"weights": sum(count * width / divided["weights"] for count, divided in parts)}
    if setting.lora_rank:
        adapter = setting.lora_rank * sizes.adapter
        result["weights"] += adapter * width / parts[0][1]["weights"]
        parts = [(float(adapter), parts[0][1])]
    optimizer = OPTIMIZER if setting.precision == "bf16" or setting.zero_stage else OPTIMIZER - 4
    summed = WEIGHT["fp32" if setting.zero_stage else setting.precision]
    result["gradients"] = sum(count * summed / divided["gradients"] for count, divided in parts)
    result["optimizer"] = sum(count * optimizer / divided["optimizer"] for count, divided in parts)
    result["step"] = sum(count * STEP / divided["optimizer"] for count, divided in parts)
    return result


def cached_share(sizes: Sizes, setting: Setting) -> float:
    """Numbers that a rank's part of the key-value cache holds of a token."""
    return sizes.cached / min(setting.tensor_parallel, sizes.cached_parts)


def card_needs(sizes: Sizes, setting: Setting, pass_bytes: float) -> Needs:
    """What a card holds in both phases.

    Args:
        sizes: of the model.
        setting: how it is laid out.
        pass_bytes: of a forward and backward pass, from `traced_pass`.
    """
    held = states(sizes, setting)
    width = WEIGHT[setting.precision]
    reference = _reference(sizes, setting)
    away = held["optimizer"] if setting.offload != "none" else 0.0
    common = {"trainer's weights": held["weights"], "reference model": reference}
    rollout = common | {
        "optimizer": held["optimizer"] - away,
        "engine's weights": sizes.total * width / setting.tensor_parallel,
        "other": OTHER_ROLLOUT,
    }
    always = setting.offload == "always"
    buckets = held_bytes(sizes.hidden, sizes.total, setting.zero_stage, width)
    if setting.zero_stage == 3:  # in stages 1 and 2 it is there while gradients are reduced
        rollout |= {"reduce bucket": buckets["reduce bucket"]}
    training = (
        common
        | buckets
        | {
            "gradients": held["gradients"],
            "optimizer": 0.0 if always else held["optimizer"],
            "pass or step": max(pass_bytes, 0.0 if always else held["step"]),
            "other": OTHER_TRAINING,
        }
    )
    machine = (away + (held["step"] if always else 0.0)) * setting.ranks
    return Needs(_present(rollout), _present(training), machine + copied(sizes, setting))


def copied(sizes: Sizes, setting: Setting) -> float:
    """Bytes of the machine's memory, over all ranks, from which a checkpoint is written beside the next steps.

    Every rank copies its share of the optimizer's states, rank 0 the weights, or nothing to speak of with adapters.
    """
    if not setting.background:
        return 0.0
    if setting.lora_rank:
        return float(setting.lora_rank * sizes.adapter * OPTIMIZER)
    return float(sizes.total * (OPTIMIZER + WEIGHT[setting.precision]))


def shared_memory(sizes: Sizes, setting: Setting, pass_bytes: float, cache: float) -> dict[str, float]:
    """What all ranks hold together on a CPU, where nothing sleeps, by part."""
    held = states(sizes, setting)
    ranks, width = setting.ranks, WEIGHT[setting.precision]
    buckets = held_bytes(sizes.hidden, sizes.total, setting.zero_stage, width)
    return _present(
        {name: value * ranks for name, value in buckets.items()}
        | {
            "trainer's weights": held["weights"] * ranks,
            "reference model": _reference(sizes, setting) * ranks,
            "gradients": held["gradients"] * ranks,
            "optimizer": held["optimizer"] * ranks,
            "pass or step": max(pass_bytes, held["step"]) * ranks,
            "engine's weights": sizes.total * width * ranks / setting.tensor_parallel,
            "key-value cache": cache * ranks,
            "a checkpoint's copy": copied(sizes, setting),
        }
    )


def _reference(sizes: Sizes, setting: Setting) -> float:
    """Bytes of a rank's reference model, sharded as the weights are; beside adapters it is the model without them."""
    if not setting.reference or setting.lora_rank:
        return 0.0
    return sizes.total * WEIGHT[setting.precision] / shares(setting)["weights"]


def _present(parts: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in parts.items() if value}
