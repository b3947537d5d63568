"""Memory of one forward and backward pass: the trainer's own code, run on tensors without memory.

PyTorch's fake tensors have shapes and no data, and its memory tracker follows what is made and freed. So the figure
holds for every family of models, with what it keeps for the backward pass, the head's chunks and what a layer needs on
the way. A model is traced with few layers, twice, and the rest of them follows: they are alike.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evolpo.model import DTYPES
from evolpo.recipes.memory.needs import Setting, Work

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from evolpo.rl.batching import MicroBatch


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pass:
    """Bytes of a pass beside weights and gradients."""

    kept: float
    """After the forward pass: what the backward pass needs."""
    peak: float
    """The most at any time."""

    def deeper(self, other: Pass, layers: float) -> Pass:
        """What follows for a model of more layers, from this one and one that is a period of layers deeper."""
        return Pass(
            self.kept + layers * (other.kept - self.kept),
            self.peak + layers * (other.peak - self.peak),
        )


def traced_pass(
    config: PreTrainedConfig, work: Work, dtype: torch.dtype, checkpointing: bool, adapters: bool = False
) -> Pass:
    """Bytes of the largest forward and backward pass of a model.

    Args:
        config: of the model; multi-token prediction is not run in reinforcement learning.
        work: the micro-batch.
        dtype: of weights and activations.
        checkpointing: whether activations are computed again in the backward pass.
        adapters: whether the head is frozen, as beside adapters, so that it needs no gradient.
    """
    first, period = _period(config)
    layers = config.num_hidden_layers
    run = functools.partial(_traced, work=work, dtype=dtype, checkpointing=checkpointing, adapters=adapters)
    if first + 2 * period >= layers or (layers - first) % period:
        return run(config)
    one, two = run(_shallow(config, first + period)), run(_shallow(config, first + 2 * period))
    return one.deeper(two, (layers - first) / period - 1)


def passes_of(config: PreTrainedConfig) -> Callable[[Setting], float]:
    """For a model: from a setting to the most bytes of a pass; those of the same work are traced once."""
    traced = functools.cache(functools.partial(traced_pass, config))

    def peak(setting: Setting) -> float:
        dtype = DTYPES[setting.precision]
        return traced(setting.work, dtype, setting.checkpointing, bool(setting.lora_rank)).peak

    return peak


def _period(config: PreTrainedConfig) -> tuple[int, int]:
    """Layers of another kind at the beginning, and the number after which kinds of layers repeat."""
    first = int(getattr(config, "first_k_dense_replace", 0) or 0)
    kinds: Sequence[Any] = getattr(config, "layer_types", None) or [""] * config.num_hidden_layers
    rest = list(kinds[first:])
    for period in range(1, len(rest) + 1):
        if all(kind == rest[i % period] for i, kind in enumerate(rest)):
            return first, period
    return first, max(len(rest), 1)


def _shallow(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The same model with its first layers only."""
    result = copy.deepcopy(config)
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == config.num_hidden_layers:
            setattr(result, name, value[:layers])
    result.num_hidden_layers = layers
    return result


def _traced(config: PreTrainedConfig, work: Work, dtype: torch.dtype, checkpointing: bool, adapters: bool) -> Pass:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    from evolpo.rl.logprobs import Policy

    batch = largest_batch(work)
    with FakeTensorMode(allow_non_fake_inputs=True), _without_data():
        model = _empty_model(config, dtype)
        policy = Policy(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            policy.train()
        if adapters:  # after the layers, for the tracker takes no parameter without a gradient
            model.base_model.register_forward_hook(_freeze_head(model))
        standing = 0
        for tensor in (*policy.parameters(), *policy.buffers()):
            standing += tensor.nbytes
            if tensor.requires_grad:
                tensor.grad = torch.zeros_like(tensor)  # as in every micro-batch but the first
                standing += tensor.nbytes
        tracker = MemTracker()
        tracker.track_external(policy, *(p.grad for p in policy.parameters() if p.grad is not None))
        with tracker:
            logprobs, *_ = policy(batch)
            kept = _total(tracker.get_tracker_snapshot("current"))
            logprobs.sum().backward()
        return Pass(kept - standing, _total(tracker.get_tracker_snapshot("peak")) - standing)


def _freeze_head(model: Any) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        model.get_output_embeddings().weight.requires_grad_(False)

    return hook


def _total(snapshot: dict[Any, dict[Any, int]]) -> int:
    return sum(kinds["Total"] for kinds in snapshot.values())


def largest_batch(work: Work, device: torch.device = CPU) -> MicroBatch:
    """The first micro-batch of a step in which every prompt and response is as long as it may be."""
    from evolpo.rl.batching import collate, make_micro_batches
    from evolpo.rl.data import Row

    none = (0,) * work.response_tokens
    values = tuple(map(float, none))
    prompt = (1,) * work.prompt_tokens
    group = work.prompt_tokens + work.responses * work.response_tokens
    groups = -(-work.tokens // group)
    rows = [Row(i // work.responses, prompt, none, none, 1.0, values) for i in range(groups * work.responses)]
    micro = make_micro_batches(rows, range(len(rows)), work.tokens)[0]
    return collate(rows, micro, device)


def _empty_model(config: PreTrainedConfig, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    from evolpo.model.config import BailingMoeV2Config
    from evolpo.model.ling import BailingMoeV2ForCausalLM

    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    if isinstance(config, BailingMoeV2Config):
        config.num_nextn_predict_layers = 0
        usual = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            return BailingMoeV2ForCausalLM(config).train(False)
        finally:
            torch.set_default_dtype(usual)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).train(False)  # type: ignore[no-untyped-call]


@contextmanager
def _without_data() -> Iterator[None]:
    """Let what asks for values do without them: masks are taken for causal, tokens for spread evenly over experts."""
    from evolpo.model import attention, experts, kernels

    def even(chosen: Tensor, count: int) -> experts.Plan:
        places = chosen.numel()
        filler = min(count, places) * experts.ALIGNMENT // 2
        rows = -(-(places + filler) // experts.ALIGNMENT) * experts.ALIGNMENT
        slots = torch.zeros(rows, dtype=torch.long)
        return experts.Plan(
            slots, torch.zeros(places, dtype=torch.long), slots > 0, torch.zeros(count, dtype=torch.int32)
        )

    def causal(query: Tensor, key: Tensor, value: Tensor, scale: float | None, *_: Any) -> Tensor:
        return kernels._kernel(query, key, value, scale)

    def no_table(*_: Any) -> None:
        return None

    def counts(values: Tensor, minlength: int = 0) -> Tensor:
        return torch.zeros(minlength, dtype=torch.long)

    def product(rows: Tensor, weight: Tensor, **_: Any) -> Tensor:
        return rows @ weight[0]  # the fake one takes bfloat16 only

    with ExitStack() as stack:
        for owner, name, value in (
            (torch.nn.functional, "grouped_mm", product),
            (torch, "_grouped_mm", product),
            (attention, "causal_attention", causal),
            (attention, "general_attention", causal),
            (kernels.Visibility, "table", no_table),
            (experts, "plan", even),
            (torch, "bincount", counts),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield
