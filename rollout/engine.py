"""What a sampling engine is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from evolpo import InputError
from evolpo.rl.data import Group, Prompt
from evolpo.rollout.staleness import BOUNDS

if TYPE_CHECKING:
    from torch import Tensor


SEEDS_APART = 1 << 20
"""vLLM seeds the i-th response to a prompt with the prompt's seed plus i; prompts lie further apart than that."""
LORA_SYNC = ("auto", "adapter", "folded")
"""Ways of new adapters to the engine."""
ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks of adapters that vLLM can be told."""


InFlight = Literal["recompute", "keep"]
"""What becomes of running responses when weights change: their context is computed anew, or its cache kept."""


@dataclass(frozen=True)
class Sampling:
    """How to sample. Temperature 0 is greedy."""

    responses_per_prompt: int
    max_response_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""


def prompt_seeds(seed: int, sampling: Sampling, count: int) -> list[int | None]:
    """The seed of the first response to each of `count` prompts that are sampled together; None where it is greedy."""
    if sampling.temperature == 0:
        return [None] * count
    drawn = np.random.SeedSequence(seed).generate_state(max(count, 1)).astype(np.int64)
    return [int(one) * SEEDS_APART for one in drawn[:count]]


def check_tokens(prompts: Sequence[Prompt], vocabulary: int, tokenizer: Any) -> None:
    """Raise InputError if a prompt holds a token that the tokenizer has and the model, with its embeddings, has not."""
    largest = max((token for prompt in prompts for token in prompt.token_ids), default=0)
    if largest >= vocabulary:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise InputError(
            f"model.path: a prompt holds the token {token!r} with id {largest}, but the model has"
            f" {vocabulary} embeddings; take a tokenizer or a chat template that fits"
        )


@dataclass
class FleetConfig:
    """Engines in processes of their own, on this machine or on others, that Ray starts and watches."""

    engines: int = 0
    """How many; 0: one in the trainer's process, and each waits for the other."""
    address: str = ""
    """Address of a running Ray cluster; empty: one is started on this machine, for this run and on loopback alone."""
    max_staleness: int = 0
    """Finished steps by which the policy that trains may be ahead of the one that began a group; 0 waits each step."""
    bound: str = "hard"
    """hard: max_staleness holds for every group; soft: steps take what is finished first, which is faster."""
    in_flight: str = "recompute"
    """Running responses when weights change: recompute their context under the new ones, or keep what is cached."""
    stall_s: float = 60.0
    """Seconds without a sign of life or of work after which an engine is given up and another one started."""
    threads: int = 0
    """Threads of each engine on a CPU; 0: the cores shared out among the engines and the trainer."""
    gpus_per_engine: float = 1.0
    """Cards of each engine where there are any; 0.5 puts two on a card."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("engines", "max_staleness", "threads"):
            if getattr(self, name) < 0:
                raise InputError(f"rollout.fleet.{name}: {getattr(self, name)} is negative; give 0 or more")
        for name, choices in (("bound", BOUNDS), ("in_flight", get_args(InFlight))):
            if getattr(self, name) not in choices:
                raise InputError(f"rollout.fleet.{name}: {getattr(self, name)!r} is none of {', '.join(choices)}")
        for name in ("stall_s", "gpus_per_engine"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"rollout.fleet.{name}: {getattr(self, name)} is not above 0; leave the default")
        if not self.engines and (self.max_staleness or self.address):
            what = "max_staleness" if self.max_staleness else "address"
            raise InputError(f"rollout.fleet.{what}: is for a fleet; set rollout.fleet.engines=1 or more")


@dataclass
class RolloutConfig:
    """The sampling engine and how it samples during training."""

    temperature: float = 1.0
    """Sampling temperature; the policy that is trained is the distribution at this temperature."""
    top_p: float = 1.0
    """Nucleus sampling: smallest set of tokens with this probability; 1 keeps all."""
    top_k: int = 0
    """Sample from the k likeliest tokens; 0 keeps all."""
    max_response_tokens: int = 256
    """Budget of a response; longer ones are cut off and marked as truncated."""
    special_tokens: bool = False
    """Keep special tokens, such as a <think> that is one, in the text that rewards see; the end is left out anyway."""
    kv_cache_gb: float = 0.0
    """Memory for the engine's key-value cache, GiB a device; 0: all that is left on a GPU, 2 on a CPU."""
    compile: bool = False
    """Compile the engine's model: slower to start, faster to run. GPUs replay graphs of single tokens in any case."""
    sleep_level: int = 2
    """On a GPU while the trainer works: 2 drops the engine's weights, 1 keeps them in the CPU's memory."""
    tensor_parallel: int = 1
    """Ranks that share one engine, each with a part of every weight; 1: every rank has an engine of its own."""
    lora_sync: str = "auto"
    """With model.lora, what goes to the engine after a step: adapter, the model with it folded in, or auto."""
    fleet: FleetConfig = field(default_factory=FleetConfig)
    """Engines beside the trainer, in processes of their own."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.temperature <= 0:
            raise InputError(f"rollout.temperature: {self.temperature} is not positive; 1.0 is usual")
        if not 0 < self.top_p <= 1:
            raise InputError(f"rollout.top_p: {self.top_p} is not in (0, 1]")
        if self.top_k < 0:
            raise InputError(f"rollout.top_k: {self.top_k} is negative; 0 keeps all tokens")
        if self.max_response_tokens < 1:
            raise InputError(f"rollout.max_response_tokens: {self.max_response_tokens} is less than 1")
        if self.kv_cache_gb < 0:
            raise InputError(f"rollout.kv_cache_gb: {self.kv_cache_gb} is negative; 0 takes what is left")
        if self.sleep_level not in (1, 2):
            raise InputError(f"rollout.sleep_level: {self.sleep_level} is none of 1, 2")
        if self.tensor_parallel < 1:
            raise InputError(f"rollout.tensor_parallel: {self.tensor_parallel} is less than 1, an engine on one device")
        if self.fleet.engines and self.tensor_parallel > 1:
            raise InputError("rollout.tensor_parallel: an engine of a fleet has one card; set it to 1")
        if self.fleet.engines and self.sleep_level != 2:
            raise InputError("rollout.sleep_level: engines of a fleet do not sleep; leave it at 2")
        if self.lora_sync not in LORA_SYNC:
            raise InputError(f"rollout.lora_sync: {self.lora_sync!r} is none of {', '.join(LORA_SYNC)}")

    def sampling(self, responses_per_prompt: int, budget: int = 0) -> Sampling:
        """The sampling of a training step, with a budget of tokens of its own if that is not 0."""
        tokens = budget or self.max_response_tokens
        return Sampling(responses_per_prompt, tokens, self.temperature, self.top_p, self.top_k)


class Interrupted(BaseException):
    """The ranks of an engine have broken off sampling together, since one of them has been asked to end."""


class RolloutEngine(Protocol):
    """Samples groups of responses, and takes new weights.

    Where ranks share an engine (`RolloutConfig.tensor_parallel`) every one of them makes the same calls, with prompts
    of its own, and gets what belongs to these.
    """

    version: int
    """Version of the weights in use: the number of finished training steps."""

    takes_adapters: bool
    """Whether it wants `update_adapter` instead of `update_weights`."""

    asked: Callable[[], bool]
    """Whether this rank has been asked to end; an engine that ranks share asks while it samples, and then raises
    `Interrupted` on all of them. One that belongs to a rank alone is broken off by whoever asks."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, done: Callable[[Group], None] | None = None
    ) -> list[Group]:
        """Sample `responses_per_prompt` responses to each prompt; same arguments and weights, same responses.

        `done` gets every group as soon as it is finished, while the others are still being sampled.
        """

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Replace all weights by full tensors under their Hugging Face names, and forget cached prefixes.

        An engine that sleeps wakes up.
        """

    def update_adapter(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], version: int) -> None:
        """Replace the adapter, and forget cached prefixes; the model beside it stays. An engine that sleeps wakes up.

        Args:
            tensors: its matrices, whole, under the names that PEFT writes.
            settings: `r`, `lora_alpha` and `target_modules`, as in PEFT's `adapter_config.json`.
            version: number of finished training steps.
        """

    def routing(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """For each sequence of T tokens the experts chosen, [T, layers, k]; empty for a model without experts."""

    def sleep(self) -> bool:
        """Free the engine's device memory until weights are updated, where the device can; tells whether it did."""
