"""TRL's worker of `evolpo bench step`: `GRPOTrainer` 1.16 as its users run it without vLLM, one step a turn.

Where TRL leaves a choice, the one that favours it is taken: no gradient checkpointing, no logging, no saving; in bf16
the weights and the optimizer's state are bf16 too, where evolpo keeps fp32 master weights.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from evolpo.model import DTYPES, load_tokenizer
from evolpo.recipes.bench.step_side import LEARNING_RATE, StepTask, Stopwatch, Turns, reward
from evolpo.rl.training.config import TrainerConfig

MICRO_BATCH = 8
"""Responses in one forward and backward pass: TRL's own default. On a CPU all 32 at once need 7% less CPU time, but
4.1 GB instead of 1.8 (6 layers, hidden size 256, vocabulary 24,576), and memory is compared as well."""


class TakeTurns(TrainerCallback):
    """Holds every step until it is this side's turn, and answers when it is done."""

    def __init__(self, turns: Turns, watch: Stopwatch, precision: str) -> None:
        self._turns, self._watch, self._precision = turns, watch, precision
        self._optimizing = ExitStack()
        self.prompt_tokens = self.response_tokens = 0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Everything is loaded."""
        self._turns.ready(self._precision)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Wait."""
        if not self._turns.wait():
            sys.exit()
        self._watch.start()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The gradients are there, and clipped."""
        self._optimizing.enter_context(self._watch.phase("optimizer"))

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The weights are updated."""
        self._optimizing.close()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Answer."""
        self._turns.answer(self._watch.stop(self.prompt_tokens, self.response_tokens))


def prompt_rows(task: StepTask) -> Dataset:
    """One row a question: chat messages, or the plain text that `chat_tokens` writes without a chat template."""
    if load_tokenizer(task.model).chat_template:
        return Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in task.questions])
    return Dataset.from_list([{"prompt": f"User: {text}\n\nAssistant:"} for text in task.questions])


def grpo_config(task: StepTask, precision: str, folder: str) -> GRPOConfig:
    """TRL's settings: the task's, and the fastest where the task is silent."""
    responses = len(task.questions) * task.responses_per_prompt
    micro_batch = math.gcd(MICRO_BATCH, responses)
    return GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=responses // micro_batch,
        num_generations=task.responses_per_prompt,
        max_completion_length=task.max_response_tokens,
        max_steps=task.steps,
        num_iterations=1,
        temperature=1.0,
        beta=0.0,
        loss_type="grpo",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        use_vllm=False,
        use_cpu=not torch.cuda.is_available(),
        model_init_kwargs={"dtype": DTYPES[precision]},
        bf16=False,
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=task.seed,
    )


def measure(trainer: GRPOTrainer, watch: Stopwatch, callback: TakeTurns) -> None:
    """Time the parts of TRL's step. `_generate_single_turn` and its like are private: hence the one version."""
    generate = trainer._generate_single_turn

    def counted(prompt_ids: Sequence[Sequence[int]], *args: Any, **kwargs: Any) -> Any:
        with watch.phase("rollout"):
            response_ids, logprobs = generate(prompt_ids, *args, **kwargs)
        callback.prompt_tokens = sum(map(len, prompt_ids))
        callback.response_tokens = sum(map(len, response_ids))
        return response_ids, logprobs

    trainer._generate_single_turn = counted
    trainer._calculate_rewards = watch.timed("reward", trainer._calculate_rewards)
    trainer._get_per_token_logps_and_entropies = watch.timed("logprobs", trainer._get_per_token_logps_and_entropies)
    trainer._clip_grad_norm = watch.timed("optimizer", trainer._clip_grad_norm)
    trainer.accelerator.backward = watch.timed("backward", trainer.accelerator.backward)


def token_reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """The bench's reward with TRL's signature."""
    return [reward(token_ids) for token_ids in completion_ids]


def run_trl(task: StepTask, turns: Turns) -> None:
    """TRL's worker: one step a turn."""
    precision = TrainerConfig(precision=task.precision).precision
    watch = Stopwatch()
    callback = TakeTurns(turns, watch, precision)
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=task.model,
            reward_funcs=token_reward,
            args=grpo_config(task, precision, folder),
            train_dataset=prompt_rows(task),
            callbacks=[callback],
        )
        measure(trainer, watch, callback)
        trainer.train()


if __name__ == "__main__":
    channel = Turns()
    run_trl(StepTask(**json.loads(sys.argv[1])), channel)
