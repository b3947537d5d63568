"""Supervised fine-tuning on responses; on worked solutions in two modes it is decoupled fine-tuning (DFT).

The trainer is that of reinforcement learning, with another loss: the mean negative log-probability of the response.
Source of DFT: Ling 2.0 report (arXiv 2510.22115) section 4.1.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from evolpo import InputError
from evolpo.model import model_folder
from evolpo.recipes.config import SftConfig
from evolpo.recipes.dft_data import Example, dft_examples, read_examples
from evolpo.recipes.run import new_run_folder, write_config
from evolpo.rl.data import Batch, Row
from evolpo.rl.losses import Reduction, reduce_tokens
from evolpo.rl.metrics import MetricsWriter, Progress
from evolpo.rl.trainer import Trainer, from_rank_0, init_distributed
from evolpo.rollout.prompts import chat_tokens, split_heldout


class NegativeLogLikelihood:
    """Mean negative log-probability of the response tokens, with the signature of a policy loss."""

    reduction: Reduction = "token_mean"

    def __call__(
        self,
        logprobs: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        units: Tensor,
        clip_low: float | None = None,
        clip_high: float | None = None,
        *,
        denominator: float | Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, T] log-probabilities and mask to a scalar in nats a token; the other arguments play no part."""
        loss = -reduce_tokens(logprobs, mask, self.reduction, denominator)
        return loss, {}


def sft(config: SftConfig) -> Path:
    """Run `evolpo sft` and return the folder of the model; every rank calls it."""
    with Progress(config.steps, config.logger, int(os.environ.get("RANK", "0"))) as progress:
        progress.note("loading data")
        examples = load_examples(config)
        rank, world = init_distributed()
        if config.examples_per_step % world:
            raise InputError(f"examples_per_step: {config.examples_per_step} cannot be shared by {world} ranks")
        run = Path(from_rank_0(str(new_run_folder(config.output_dir, config.name)) if rank == 0 else ""))
        if rank == 0:
            write_config(run, config)
        path = model_folder(config.model)
        progress.note(f"{len(examples)} examples; loading the model from {path}")
        trainer = Trainer(path, config.trainer, total_updates=config.steps, mtp_weight=config.mtp_weight)
        rows = [encode_example(example, trainer.tokenizer) for example in examples]
        writer = MetricsWriter(run, config.logger) if rank == 0 else None
        for step in range(config.steps):
            start = time.perf_counter()
            chosen = _batch(len(rows), config.examples_per_step, step, config.seed)[rank::world]
            batch = Batch(tuple(_numbered(rows[i], number) for number, i in enumerate(chosen)))
            metrics = trainer.update(batch, NegativeLogLikelihood()).metrics
            kept = ("loss", "grad_norm", "lr", "train/tokens", "experts/", "fp8/")
            metrics = {name: value for name, value in metrics.items() if name.startswith(kept)}
            metrics["seconds/step"] = time.perf_counter() - start
            metrics["tokens_per_s"] = metrics["train/tokens"] / metrics["seconds/step"]
            if writer is not None:
                writer.log(step + 1, metrics)
            progress.step(step + 1, metrics)
        folder = run / "model"
        trainer.save_model(folder)
        if writer is not None:
            writer.close()
        trainer.barrier()
        return folder


def load_examples(config: SftConfig) -> list[Example]:
    """The examples of a file, or worked solutions of the training problems (never of held-out ones)."""
    if config.path:
        return read_examples(config.path)
    problems, _ = split_heldout(config.data, config.seed)
    order = np.random.default_rng([config.seed, 1]).permutation(len(problems))
    wanted = min(len(problems), config.steps * config.examples_per_step)
    chosen = [problems[i] for i in order[:wanted]]
    return dft_examples(chosen, config.seed, config.direct_share, config.deep_share, config.data.instruction)


def encode_example(example: Example, tokenizer: Any) -> Row:
    """Prompt in the chat template, and the response ended by the end-of-sequence token."""
    prompt = chat_tokens(tokenizer, example.system, example.prompt)
    response = tokenizer(example.response, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    size = len(response)
    return Row(0, prompt, tuple(response), (0,) * size, 1.0, (0.0,) * size)


def _batch(size: int, wanted: int, step: int, seed: int) -> Sequence[int]:
    """Indices of a step: epochs one after the other, each shuffled by seed."""
    positions = range(step * wanted, (step + 1) * wanted)
    orders = {p // size: np.random.default_rng([seed, 2, p // size]).permutation(size) for p in positions}
    return [int(orders[p // size][p % size]) for p in positions]


def _numbered(row: Row, number: int) -> Row:
    return Row(number, row.prompt_ids, row.response_ids, row.units, row.advantage, row.rollout_logprobs)
