"""evolpo's side of `evolpo bench step`: trainer and engine in one process, a step a turn."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evolpo.recipes.bench.step_side import LEARNING_RATE, StepTask, Stopwatch, Turns, reward

if TYPE_CHECKING:
    from evolpo.rl.data import Batch, Group, Prompt
    from evolpo.rl.trainer import Trainer
    from evolpo.rollout.vllm_engine import VllmEngine


def kv_cache_gb(model: Any, sequences: int, tokens: int) -> float:
    """GiB that the keys and values of `sequences` sequences of up to `tokens` tokens need, in blocks of 32 tokens.

    vLLM takes all of its cache at once, so a larger one would be counted as memory that the step needs.
    """
    config = model.config
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * model.dtype.itemsize
    blocks = math.ceil(tokens / 32) + 1
    return float(sequences * blocks * 32 * token / (1 << 30))


def build_batch(groups: Sequence[Group], tokenizer: Any) -> Batch:
    """Rewards, advantages and sentences of sampled groups."""
    from evolpo.rl.advantages import advantages_of
    from evolpo.rl.data import Batch, Row
    from evolpo.rl.segment import SEGMENTERS

    rows = []
    for index, group in enumerate(groups):
        advantages = advantages_of([reward(response.token_ids) for response in group.responses], "group")
        for response, advantage in zip(group.responses, advantages, strict=True):
            units = tuple(SEGMENTERS["punctuation"](response.token_ids, tokenizer))
            prompt = group.prompt.token_ids
            rows.append(Row(index, prompt, response.token_ids, units, advantage or 0.0, response.logprobs))
    return Batch(tuple(rows))


def load_evolpo(task: StepTask) -> tuple[Trainer, VllmEngine, list[Prompt]]:
    """The trainer, then the engine in the same process, and the prompts."""
    from evolpo.rl.data import Prompt
    from evolpo.rl.trainer import Trainer
    from evolpo.rl.training.config import TrainerConfig
    from evolpo.rollout.engine import RolloutConfig
    from evolpo.rollout.prompts import chat_tokens
    from evolpo.rollout.vllm_engine import VllmEngine

    settings = TrainerConfig(
        zero_stage=0, precision=task.precision, learning_rate=LEARNING_RATE, tokens_per_micro_batch=1024
    )
    trainer = Trainer(task.model, settings, total_updates=task.steps)
    prompts = [Prompt(str(i), text, chat_tokens(trainer.tokenizer, "", text)) for i, text in enumerate(task.questions)]
    longest = max(len(prompt.token_ids) for prompt in prompts) + task.max_response_tokens
    cache = kv_cache_gb(trainer.policy.model, len(prompts) * task.responses_per_prompt, longest)
    rollout = RolloutConfig(max_response_tokens=task.max_response_tokens, kv_cache_gb=cache, compile=task.compile)
    return trainer, VllmEngine(task.model, rollout, settings.precision, longest, task.seed), prompts


def run_evolpo(task: StepTask, turns: Turns) -> None:
    """Evolpo's worker: one step a turn."""
    from evolpo.rl.losses import LOSSES
    from evolpo.rollout.engine import Sampling

    trainer, engine, prompts = load_evolpo(task)
    if task.full_length:
        engine.ends = []
    sampling = Sampling(task.responses_per_prompt, task.max_response_tokens)
    watch = Stopwatch()
    trainer.engine.forward = watch.timed("logprobs", trainer.engine.forward)
    trainer.engine.backward = watch.timed("backward", trainer.engine.backward)
    trainer.engine.step = watch.timed("optimizer", trainer.engine.step)
    turns.ready(trainer.config.precision)
    step = 0
    while turns.wait():
        watch.start()
        with watch.phase("rollout"):
            groups = engine.generate(prompts, sampling, task.seed + step)
        with watch.phase("reward"):
            batch = build_batch(groups, trainer.tokenizer)
        trainer.update(batch, LOSSES["lpo"])
        step += 1
        with watch.phase("sync"):
            engine.update_weights(trainer.named_weights(), step)
        turns.answer(watch.stop(sum(len(row.prompt_ids) for row in batch.rows), batch.response_tokens))


if __name__ == "__main__":
    channel = Turns()
    run_evolpo(StepTask(**json.loads(sys.argv[1])), channel)
