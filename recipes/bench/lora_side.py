"""One side of `evolpo bench lora` in a process of its own: memory of the trainer, then bytes and time of a sync."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evolpo.recipes.bench.step_side import GB, peak_gb

if TYPE_CHECKING:
    from evolpo.rl.data import Batch, Group, Prompt
    from evolpo.rl.trainer import Trainer

SIDES = ("full", "folded", "adapter")
"""All weights are trained; adapters, which vLLM gets folded into the model; adapters, which it gets alone."""
ROUNDS = 3
"""Updates, syncs and samplings; the first is not counted."""


@dataclass(frozen=True)
class SideTask:
    """What a side is told, as JSON on the command line."""

    side: str
    model: str
    """Folder in Hugging Face layout."""
    rank: int
    learning_rate: float
    prompts: int
    responses_per_prompt: int
    max_response_tokens: int
    precision: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class SideFigures:
    """What a side measures; times are medians. CPU seconds, of all threads, are less disturbed by other processes."""

    trainer_bytes: int
    """All live tensors before an optimizer step: weights, fp32 weights, gradients, moments; no activations."""
    peak_bytes: int
    """Most memory of the process with the trainer alone, activations included; of a GPU, its own."""
    loaded_bytes: int
    """The same before the model was loaded: Python and its libraries; 0 on a GPU."""
    sync_bytes: int
    sync_s: float
    sync_cpu_s: float
    sample_s: float
    sample_cpu_s: float
    sampled_tokens: int
    gap_mean: float
    """Nats by which log-probabilities of sampled tokens differ between engine and trainer after the updates."""
    gap_max: float
    threads: int
    device: str
    precision: str


def live_bytes() -> int:
    """Bytes of all storages of tensors that this process holds, each once."""
    storages: dict[int, int] = {}
    tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]  # isinstance would ask odd objects
    for tensor in [*tensors, *(t.grad for t in tensors if t.is_leaf and t.grad is not None)]:
        if tensor.device.type != "meta":
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measure(task: SideTask) -> SideFigures:
    """Measure a side; a process can do so once."""
    from evolpo.model.lora import LoraConfig
    from evolpo.recipes.bench.step import questions
    from evolpo.rl.data import Prompt
    from evolpo.rl.trainer import Trainer
    from evolpo.rl.training.config import TrainerConfig
    from evolpo.rollout.prompts import chat_tokens

    loaded = 0 if torch.cuda.is_available() else peak_gb() * GB
    settings = TrainerConfig(
        zero_stage=0, precision=task.precision, learning_rate=task.learning_rate, tokens_per_micro_batch=1024
    )
    lora = None if task.side == "full" else LoraConfig(rank=task.rank)
    trainer = Trainer(task.model, settings, total_updates=ROUNDS, lora=lora)
    texts = questions(task.prompts, task.seed)
    prompts = [Prompt(str(i), text, chat_tokens(trainer.tokenizer, "", text)) for i, text in enumerate(texts)]
    held = _trained(trainer, prompts, task)
    peak = peak_gb() * GB
    return SideFigures(
        trainer_bytes=max(held),
        peak_bytes=int(peak),
        loaded_bytes=int(loaded),
        **_synced(trainer, prompts, task),
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        precision=settings.precision,
    )


def _trained(trainer: Trainer, prompts: list[Prompt], task: SideTask) -> list[int]:
    """Train on random responses of full length; bytes that are held before each optimizer step."""
    from evolpo.recipes.bench.step_evolpo import build_batch
    from evolpo.rl.data import Group, Response
    from evolpo.rl.losses import LOSSES

    held: list[int] = []
    step = trainer.engine.step

    def watched() -> None:
        held.append(live_bytes())
        step()

    trainer.engine.step = watched
    draw = torch.Generator().manual_seed(task.seed)
    for _ in range(ROUNDS):
        groups = []
        for prompt in prompts:
            drawn = torch.randint(0, 250, (task.responses_per_prompt, task.max_response_tokens), generator=draw)
            made = [Response(tuple(ids), "", (-5.0,) * len(ids), "length") for ids in drawn.tolist()]
            groups.append(Group(prompt, tuple(made)))
        trainer.update(build_batch(groups, trainer.tokenizer), LOSSES["lpo"])
    trainer.engine.step = step
    return held


def _synced(trainer: Trainer, prompts: list[Prompt], task: SideTask) -> dict[str, Any]:
    """Start the engine, then sync and sample in turn."""
    from evolpo.recipes.bench.step_evolpo import build_batch, kv_cache_gb
    from evolpo.recipes.training.sync import sync
    from evolpo.rollout.engine import RolloutConfig, Sampling
    from evolpo.rollout.vllm_engine import VllmEngine

    longest = max(len(prompt.token_ids) for prompt in prompts) + task.max_response_tokens
    cache = kv_cache_gb(trainer.policy.model, len(prompts) * task.responses_per_prompt, longest)
    rollout = RolloutConfig(max_response_tokens=task.max_response_tokens, kv_cache_gb=cache)
    rank = task.rank if task.side == "adapter" else 0
    engine = VllmEngine(task.model, rollout, trainer.config.precision, longest, task.seed, adapter_rank=rank)
    sampling = Sampling(task.responses_per_prompt, task.max_response_tokens)
    syncs, samplings, given = [], [], 0
    groups: list[Group] = []
    for number in range(ROUNDS):
        given, *seconds = _timed(partial(sync, engine, trainer, number))
        syncs.append(seconds)
        groups, *seconds = _timed(partial(engine.generate, prompts, sampling, task.seed))
        samplings.append(seconds)
    gaps = list(_gaps(trainer, build_batch(groups, trainer.tokenizer)))
    tokens = sum(len(response.token_ids) for group in groups for response in group.responses)
    return {
        "sync_bytes": given,
        **{f"sync{kind}": statistics.median(s[i] for s in syncs[1:]) for i, kind in enumerate(("_s", "_cpu_s"))},
        **{f"sample{kind}": statistics.median(s[i] for s in samplings[1:]) for i, kind in enumerate(("_s", "_cpu_s"))},
        "sampled_tokens": tokens,
        "gap_mean": statistics.fmean(gaps),
        "gap_max": max(gaps),
    }


def _gaps(trainer: Trainer, batch: Batch) -> Iterator[float]:
    for index, ours in trainer.logprobs(batch.rows).items():
        yield from (abs(a - b) for a, b in zip(ours, batch.rows[index].rollout_logprobs, strict=True))


def _timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, seconds by the clock, and seconds of all threads."""
    began, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - began, time.process_time() - cpu


if __name__ == "__main__":
    figures = measure(SideTask(**json.loads(sys.argv[1])))
    Path(sys.argv[2]).write_text(json.dumps(asdict(figures), indent=1) + "\n")
