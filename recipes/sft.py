"""Supervised fine-tuning on responses; on worked solutions in two modes it is decoupled fine-tuning (DFT).

The trainer is that of reinforcement learning, with another loss: the mean negative log-probability of the response.
Examples lie one behind the other in a line of tokens, without padding; none sees another (`evolpo.rl.batching`).
Source of DFT: Ling 2.0 report (arXiv 2510.22115) section 4.1.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from evolpo import InputError
from evolpo.model import model_folder
from evolpo.model.lora import check_targets
from evolpo.recipes.config import SftConfig, adapter_warnings
from evolpo.recipes.dft_data import Example, dft_examples, read_examples
from evolpo.recipes.runs.context import check_model_memory
from evolpo.recipes.runs.damage import check_run
from evolpo.recipes.runs.folder import new_run_folder, write_config, write_start
from evolpo.recipes.runs.launch import launched
from evolpo.recipes.runs.lock import locked
from evolpo.recipes.runs.resume import resume_point
from evolpo.recipes.runs.stop import Stop, Terminated
from evolpo.rl.checkpoint import read_state, set_later_aside
from evolpo.rl.data import Batch, Row
from evolpo.rl.logs.metrics import MetricsWriter
from evolpo.rl.logs.progress import Progress
from evolpo.rl.losses import Reduction, reduce_tokens
from evolpo.rl.saving import Saver
from evolpo.rl.trainer import Trainer
from evolpo.rl.training.determinism import fix_order_on_gpu
from evolpo.rl.training.distributed import from_rank_0, init_distributed
from evolpo.rollout.data.chat import message_text, reach_of, text_tokens, two_messages
from evolpo.rollout.data.problem import normalise
from evolpo.rollout.data.reach import Reach
from evolpo.rollout.ends import answer_end
from evolpo.rollout.prompts import DataConfig, Problem, split_heldout
from evolpo.rollout.sources import Note

logger = logging.getLogger(__name__)


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


def main(config: SftConfig) -> None:
    """Run `evolpo sft` from the command line."""
    if launched("sft", config.processes):
        return
    folder = sft(config)
    if int(os.environ.get("RANK", "0")) == 0:
        print(folder)


def sft(config: SftConfig) -> Path:
    """Run `evolpo sft` and return the folder of the model; every rank calls it."""
    fix_order_on_gpu(config.trainer.deterministic)
    with ExitStack() as stack:
        stop = stack.enter_context(Stop())
        progress = stack.enter_context(Progress(config.steps, config.logger, int(os.environ.get("RANK", "0"))))
        progress.note("loading data")
        examples, heldout = load_examples(config)
        progress.note(f"{len(examples)} examples to train on, {len(heldout)} held out")
        run, start, trainer = _begin(config, examples, progress, stop, stack)
        rows = encode_examples(examples, trainer.tokenizer, config.data, progress.note)
        heldout_rows = encode_examples(heldout, trainer.tokenizer, config.data, progress.note)
        resumed = start or None
        writer = stack.enter_context(MetricsWriter(run, config.logger, resumed)) if trainer.rank == 0 else None
        saver = stack.enter_context(Saver(run, trainer, progress.note))
        stop.begin()
        for step in range(start, config.steps):
            progress.phase("training")
            done = step + 1
            metrics = _train_step(trainer, rows, config, step)
            if heldout and _due(done, config.steps, config.evaluate_every):
                progress.phase("evaluating")
                found = trainer.logprobs(heldout_rows, range(trainer.rank, len(heldout_rows), trainer.world))
                everything = {index: values for part in trainer.gather(found) for index, values in part.items()}
                metrics |= heldout_losses(everything, heldout)
            # Logged first: what a run that dies in between has logged too much is dropped when it resumes.
            if writer is not None:
                writer.log(done, metrics)
            progress.step(done, metrics)
            asked = trainer.max_over_ranks(float(stop.asked)) > 0
            if asked or _due(done, config.steps, config.trainer.save_every):
                saver.save(done, _state(trainer, config, done, examples, writer))
            saver.check()
            if asked:
                saver.wait()
                raise Terminated(stop.message(done))
        saver.wait()
        return _write_model(trainer, run)


def _begin(
    config: SftConfig, examples: Sequence[Example], progress: Progress, stop: Stop, stack: ExitStack
) -> tuple[Path, int, Trainer]:
    """Folder of the run, finished steps and trainer, from the start or from a checkpoint."""
    start = updates = 0
    checkpoint: Path | None = None
    if config.resume:
        run, checkpoint = resume_point(config.resume)
    if checkpoint:
        state = read_state(checkpoint, ("step", "updates", "made_of"))
        _check_same(state["made_of"], _made_of(config, examples))
        start, updates = state["step"], state["updates"]
    rank, world = init_distributed()
    if config.examples_per_step % world:
        raise InputError(
            f"examples_per_step: {config.examples_per_step} cannot be shared by {world} ranks; "
            f"give a multiple of {world}"
        )
    lora = config.model.adapters
    model = str(checkpoint) if checkpoint and lora is None else model_folder(config.model)
    if lora is not None:
        check_targets(model, lora)
    check_model_memory(model, config.trainer.precision, True, adapters=lora is not None)
    if not config.resume:
        run = Path(from_rank_0(str(new_run_folder(config.output_dir, config.name)) if rank == 0 else ""))
    stop.run = run
    if rank == 0:
        stack.enter_context(locked(run))
        for lost in check_run(run, checkpoint) if checkpoint else []:
            progress.note(lost)
        write_config(run, config)
        if not config.resume:
            write_start(run)
        for folder in set_later_aside(run, start) if checkpoint else []:
            progress.note(f"{folder.name}: its step is done again")
    progress.note(f"run {run}")
    progress.note(f"loading the model from {model}")
    for warning in adapter_warnings(config.model, config.trainer):
        progress.note(f"warning: {warning}")
    trainer = Trainer(
        model,
        config.trainer,
        total_updates=config.steps,
        mtp_weight=config.mtp_weight,
        lora=lora,
        adapter=checkpoint,
        seed=config.seed,
    )
    if checkpoint:
        trainer.load_optimizer(checkpoint)
        trainer.updates = updates
    return run, start, trainer


def _train_step(trainer: Trainer, rows: Sequence[Row], config: SftConfig, step: int) -> dict[str, float]:
    """One optimizer step on this rank's share of the examples of a step; returns its metrics."""
    start = time.perf_counter()
    chosen = _batch(len(rows), config.examples_per_step, step, config.seed)[trainer.rank :: trainer.world]
    batch = Batch(tuple(replace(rows[i], group=number) for number, i in enumerate(chosen)))
    kept = ("loss", "grad_norm", "lr", "entropy", "updates/", "train/", "experts/", "fp8/")
    found = trainer.update(batch, NegativeLogLikelihood()).metrics
    metrics = {name: value for name, value in found.items() if name.startswith(kept)}
    metrics["seconds/step"] = time.perf_counter() - start
    metrics["tokens_per_s"] = metrics["train/tokens"] / metrics["seconds/step"]
    return metrics


def _due(done: int, steps: int, every: int) -> bool:
    """Whether something that is done `every` so many steps, and after the last, is done now."""
    return done == steps or (every > 0 and done % every == 0)


def heldout_losses(logprobs: Mapping[int, Sequence[float]], examples: Sequence[Example]) -> dict[str, float]:
    """Held-out loss: the mean negative log-probability of the response tokens, in nats a token.

    It is the loss that is trained on, without that of multi-token prediction.

    Args:
        logprobs: of the response tokens of each example, by its index; one or more for each example.
        examples: at least one.

    Returns:
        `eval/loss` over all tokens, and `eval/MODE/loss` where there are several modes.
    """
    modes = sorted({example.mode for example in examples})
    parts = {"eval/loss": range(len(examples))} | {
        f"eval/{mode}/loss": [i for i, example in enumerate(examples) if example.mode == mode]
        for mode in (modes if len(modes) > 1 else [])
    }
    values = {name: [x for i in indices for x in logprobs[i]] for name, indices in parts.items()}
    return {name: -fsum(found) / len(found) for name, found in values.items()}


def _state(
    trainer: Trainer, config: SftConfig, step: int, examples: Sequence[Example], writer: MetricsWriter | None
) -> dict[str, Any]:
    """What a checkpoint's `state.json` says."""
    state = {
        "step": step,
        "updates": trainer.updates,
        "world": trainer.world,
        "zero_stage": config.trainer.zero_stage,
        "made_of": _made_of(config, examples),
    }
    if writer is not None:
        state["metrics"] = writer.written()
    return state


def _made_of(config: SftConfig, examples: Sequence[Example]) -> dict[str, Any]:
    """All that decides which examples a step has: while it is the same, the step is the place in the data."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.system}\0{example.prompt}\0{example.response}\0".encode())
    return {"seed": config.seed, "examples_per_step": config.examples_per_step, "examples": digest.hexdigest()}


def _check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differing = [name for name in now if now[name] != saved[name]]
    if differing:
        raise InputError(
            f"resume: the checkpoint was made with other {', '.join(differing)}; resume as the run was configured "
            "(steps= too: it decides how many worked solutions are made) or start a new run"
        )


def _write_model(trainer: Trainer, run: Path) -> Path:
    """Write the model as `RUN/model`, whole or not at all, and return that folder."""
    folder, scratch = run / "model", run / ".model.partial"
    if trainer.rank == 0:
        shutil.rmtree(scratch, ignore_errors=True)
    trainer.save_model(scratch)
    if trainer.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    trainer.barrier()
    return folder


def load_examples(config: SftConfig) -> tuple[list[Example], list[Example]]:
    """Examples as (train, held out), which share no prompt: of a file, or worked solutions of the problems.

    The split depends on `data.seed`, or the run's where it is empty, so that runs are judged by the same examples.

    Raises:
        InputError: the file or a source is unusable, or the split leaves nothing to train on.
    """
    seed = config.data.split_seed(config.seed)
    if config.path:
        return _draw_heldout(read_examples(config.path), config.heldout_examples, seed)
    problems, heldout = split_heldout(config.data, config.seed)
    order = np.random.default_rng([config.seed, 1]).permutation(len(problems))
    wanted = min(len(problems), config.steps * config.examples_per_step)
    chosen = [problems[i] for i in order[:wanted]]
    return _worked(chosen, config, config.seed), _worked(heldout, config, seed)


def _worked(problems: Sequence[Problem], config: SftConfig, seed: int) -> list[Example]:
    shares = (config.direct_share, config.deep_share)
    return dft_examples(problems, seed, *shares, config.data.text_instruction, config.checked_share)


def _draw_heldout(examples: Sequence[Example], size: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Take `size` examples out by seed; others with a prompt of theirs are not trained on either."""
    order = np.random.default_rng([seed, 3]).permutation(len(examples))
    heldout = [examples[i] for i in sorted(order[:size])]
    reserved = {normalise(example.prompt) for example in heldout}
    kept = [example for example in examples if normalise(example.prompt) not in reserved]
    if not kept:
        raise InputError(f"heldout_examples: {size} of {len(examples)} leaves none to train on; lower it")
    return kept, heldout


def encode_examples(
    examples: Sequence[Example], tokenizer: Any, data: DataConfig | None = None, note: Note = logger.warning
) -> list[Row]:
    """Rows of examples; what of their prompts does not reach the model as it stands is noted, see `encode_problems`."""
    reach = reach_of(tokenizer, data)
    rows = [encode_example(example, tokenizer, data, reach) for example in examples]
    for line in reach.notes():
        note(line)
    return rows


def encode_example(example: Example, tokenizer: Any, data: DataConfig | None = None, reach: Reach | None = None) -> Row:
    """Prompt in the chat template as `data` has it; the response ended as the template ends it, or by the end token."""
    messages = example.turns or two_messages(example.system, example.prompt)
    text = message_text(tokenizer, messages, data, example.tools)
    if reach is not None:
        reach.look(messages, example.tools, text, example.place)
    response = tokenizer(example.response, add_special_tokens=False)["input_ids"] + [answer_end(tokenizer)]
    size = len(response)
    return Row(0, text_tokens(tokenizer, text, data), tuple(response), (0,) * size, 1.0, (0.0,) * size)


def _batch(size: int, wanted: int, step: int, seed: int) -> Sequence[int]:
    """Indices of a step: epochs one after the other, each shuffled by seed."""
    positions = range(step * wanted, (step + 1) * wanted)
    orders = {p // size: np.random.default_rng([seed, 2, p // size]).permutation(size) for p in positions}
    return [int(orders[p // size][p % size]) for p in positions]
