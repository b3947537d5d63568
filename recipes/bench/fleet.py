"""`evolpo bench fleet`: what sampling beside training brings, and what the death of an engine costs.

The lengths of responses are drawn: a group's budget is lognormal around `median_tokens`, with the tail's weight as its
sigma, cut at six medians, and the model is a copy whose end of text it hardly ever samples. Trainer and engines have
threads of their own. Staleness 0 is the synchronous loop on the same devices: the engine waits while the trainer works,
and the trainer while the engine does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil

from evolpo import InputError
from evolpo.model import ModelConfig, load_tokenizer, resolve_precision
from evolpo.recipes.bench.scale import processor, without_end
from evolpo.recipes.bench.step import questions
from evolpo.recipes.runs.checks import check_not_negative, check_positive, check_precision, check_results_file
from evolpo.recipes.runs.engine import start_engine
from evolpo.recipes.training.ahead import Ahead
from evolpo.rewards import Sample, sample_reward
from evolpo.rewards.stack import RewardsConfig, RewardSpec, RewardStack
from evolpo.rl.advantages import group_advantages
from evolpo.rl.algorithm import AlgorithmConfig, build_batch, segment
from evolpo.rl.data import Prompt
from evolpo.rl.logs.files import write_json
from evolpo.rl.losses import LOSSES
from evolpo.rl.trainer import Trainer
from evolpo.rl.training.config import TrainerConfig
from evolpo.rollout.engine import FleetConfig, RolloutConfig, Sampling
from evolpo.rollout.fleet import Fleet
from evolpo.rollout.prompts import DataConfig, chat_tokens
from evolpo.rollout.staleness import Bound

QUESTIONS = 64
"""Different ones among the prompts."""
LONGEST = 6
"""Medians at which lengths are cut."""


@dataclass
class BenchFleetConfig:
    """`evolpo bench fleet`: tokens a second by staleness and tail of lengths, and failures of engines."""

    model: ModelConfig = field(default_factory=lambda: ModelConfig(name="ling_nano"))
    staleness: list[int] = field(default_factory=lambda: [0, 1, 2, 4])
    """Values of `rollout.fleet.max_staleness`; 0 is what the others are compared with."""
    tails: list[float] = field(default_factory=lambda: [0.5, 0.9, 1.3])
    """Sigmas of the lognormal lengths."""
    bounds: list[str] = field(default_factory=lambda: ["hard", "soft"])
    """Values of `rollout.fleet.bound`."""
    median_tokens: int = 40
    """Median length of a response."""
    prompts_per_step: int = 8
    """Groups of a step."""
    responses_per_prompt: int = 4
    """Responses to each prompt."""
    steps: int = 6
    """Measured steps of each cell."""
    warmup: int = 2
    """Steps of each cell before those."""
    engines: int = 1
    """Engines beside the trainer; the failures take two."""
    precision: str = "auto"
    """bf16, fp32, or auto: bf16 where the hardware multiplies it fast, else fp32."""
    output: str = "outputs/bench/fleet.json"
    """File of the results."""
    seed: int = 0
    """Seed of prompts, lengths and sampling."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_positive(self, "median_tokens", "prompts_per_step", "steps", "engines")
        check_not_negative(self, "warmup", "seed")
        check_precision(self.precision)
        check_results_file(self.output)
        if self.responses_per_prompt < 2:
            raise InputError(f"responses_per_prompt: {self.responses_per_prompt} is no group; give at least 2")
        if 0 not in self.staleness or min(self.staleness) < 0:
            raise InputError(f"staleness: {self.staleness} has no 0 to compare with, or numbers below it")
        if not self.tails or min(self.tails) < 0:
            raise InputError(f"tails: {self.tails} are no sigmas; give numbers of 0 and more")
        for bound in self.bounds:
            FleetConfig(engines=1, bound=bound)


@sample_reward
def coin(sample: Sample) -> float:
    """0 or 1, by what the response says: every group has a signal, and judging takes no time."""
    return float(sum(sample.text.encode()) % 2)


def bench_fleet(config: BenchFleetConfig) -> dict[str, Any]:
    """Measure all cells and the failures; write the figures as they come, print and return them.

    Returns:
        `cells`: for each tail, bound and staleness trained and sampled tokens a second, shares of time in which engines
        and trainer work, mean and largest staleness; `speedup`: by tail, bound and staleness, trained tokens a second
        against staleness 0 of the same tail; over all cells `over_bound` (groups older than a hard bound), `lost` and
        `duplicates`; `failures`: see `failure`; `noticed_s`, `kept_tokens`: by failure; `processor`, `setting`.
    """
    import torch

    from evolpo.model import model_folder

    precision = resolve_precision(config.precision, "precision")
    folder = Path(config.output).with_suffix("").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    model = str(without_end(Path(model_folder(config.model)), folder / "model"))
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, cores - config.engines))
    settings = TrainerConfig(precision=precision, learning_rate=1e-6, tokens_per_micro_batch=4096)
    trainer = Trainer(model, settings, total_updates=1 << 20)
    report: dict[str, Any] = {
        "cells": [],
        "speedup": {},
        "over_bound": 0,
        "lost": 0,
        "duplicates": 0,
        "processor": processor(),
        "setting": {**asdict(config), "model": model_folder(config.model), "precision": precision, "cores": cores},
    }
    cells = [(tail, bound, eta) for tail in config.tails for bound, eta in _bounds(config)]
    with _fleet(config, model, precision, config.engines) as fleet:
        for tail, bound, eta in cells:
            _add(report, _cell(config, trainer, fleet, tail, bound, eta))
            write_json(Path(config.output), report)
    report["failures"] = {}
    with _fleet(config, model, precision, 2) as fleet:
        for name in ("kill", "hang"):
            report["failures"][name] = failure(config, fleet, _prompts(config, trainer.tokenizer), name)
            write_json(Path(config.output), report)
    for figure in ("noticed_s", "kept_tokens"):
        report[figure] = {name: found[figure] for name, found in report["failures"].items()}
    for figure in ("lost", "duplicates"):
        report[figure] += sum(found[figure] for found in report["failures"].values())
    write_json(Path(config.output), report)
    print_report(report)
    return report


def _bounds(config: BenchFleetConfig) -> Iterator[tuple[str, int]]:
    """What is measured of a tail, the synchronous loop first and once."""
    yield "hard", 0
    for bound in config.bounds:
        for eta in sorted(set(config.staleness) - {0}):
            yield bound, eta


@contextmanager
def _fleet(config: BenchFleetConfig, model: str, precision: str, engines: int) -> Iterator[Fleet]:
    rollout = RolloutConfig(
        max_response_tokens=LONGEST * config.median_tokens,
        kv_cache_gb=0.5,
        fleet=FleetConfig(engines=engines, threads=1, stall_s=3.0),
    )
    tokenizer = load_tokenizer(model)
    longest = max(len(chat_tokens(tokenizer, "", text)) for text in questions(QUESTIONS, config.seed))
    data = DataConfig(max_prompt_tokens=longest)
    fleet = start_engine(model, data, rollout, precision, config.seed, note=lambda text: print(text, file=sys.stderr))
    assert isinstance(fleet, Fleet)
    try:
        while not all(place.live for place in fleet.places):
            fleet.check()
            time.sleep(0.05)
        yield fleet
    finally:
        fleet.close()


def _prompts(config: BenchFleetConfig, tokenizer: Any) -> Iterator[Prompt]:
    """Endless prompts, no two with the same id."""
    asked = questions(QUESTIONS, config.seed)
    number = 0
    while True:
        text = asked[number % len(asked)]
        yield Prompt(str(number), text, chat_tokens(tokenizer, "", text))
        number += 1


def _cell(
    config: BenchFleetConfig, trainer: Trainer, fleet: Fleet, tail: float, bound: str, eta: int
) -> dict[str, Any]:
    """Train some steps ahead by so much, and measure them."""
    rewards = RewardStack(RewardsConfig([RewardSpec(use="evolpo.recipes.bench.fleet:coin")]))
    ahead = Ahead(fleet, rewards, config.seed, config.prompts_per_step, eta, cast(Bound, bound))
    prompts, lengths = _prompts(config, trainer.tokenizer), np.random.default_rng(config.seed)
    algorithm = AlgorithmConfig(correction="tis")
    seen: list[str] = []
    ages: list[int] = []
    tokens = waited = asked = 0.0
    began, before = time.perf_counter(), replace(fleet.counts)
    for step in range(config.warmup + config.steps):
        if step == config.warmup:
            tokens, waited, began, before = 0.0, 0.0, time.perf_counter(), replace(fleet.counts)
        start = time.perf_counter()
        for _ in range(ahead.room(step, 1 << 30)):
            drawn = min(lengths.lognormal(np.log(config.median_tokens), tail), LONGEST * config.median_tokens)
            ahead.ask([next(prompts)], step, Sampling(config.responses_per_prompt, max(4, round(drawn))))
            asked += 1
        while (found := ahead.take(step)) is None:
            ahead.wait()
        waited += time.perf_counter() - start
        groups = found[1]
        seen += [group.prompt.id for group in groups]
        ages += [step - group.born for group in groups]
        tokens += sum(len(one.token_ids) for group in groups for one in group.responses)
        units = segment(groups, algorithm, trainer.tokenizer)
        batch = build_batch(groups, units, group_advantages(groups, "group"))
        trainer.update(batch, LOSSES["lpo"])
        fleet.update_weights(trainer.named_weights(), step + 1)
    seconds = time.perf_counter() - began
    on_their_way = ahead.drop()
    rewards.close()
    counts = fleet.counts
    return {
        "tail": tail,
        "bound": bound,
        "staleness": eta,
        "trained_tokens_per_s": tokens / seconds,
        "sampled_tokens_per_s": (counts.sampled_tokens - before.sampled_tokens) / seconds,
        "engines_busy": (counts.busy_s - before.busy_s) / seconds / len(fleet.places),
        "trainer_busy": 1 - waited / seconds,
        "staleness_mean": float(np.mean(ages)),
        "staleness_max": max(ages),
        "over_bound": sum(age > eta for age in ages),
        "duplicates": len(seen) - len(set(seen)),
        "lost": int(asked) - len(seen) - on_their_way,
    }


def _key(cell: Mapping[str, Any]) -> str:
    """Under which a cell's ratio stands in `speedup`, within its tail."""
    return f"{cell['staleness']}{' soft' if cell['bound'] == 'soft' else ''}"


def _add(report: dict[str, Any], cell: dict[str, Any]) -> None:
    """Take a cell into the report."""
    report["cells"].append(cell)
    tail = report["speedup"].setdefault(str(cell["tail"]), {})
    if cell["staleness"] == 0:
        tail["0"] = 1.0
    else:
        base = next(one for one in report["cells"] if one["tail"] == cell["tail"] and one["staleness"] == 0)
        ratio = cell["trained_tokens_per_s"] / base["trained_tokens_per_s"]
        tail[_key(cell)] = ratio
    report["over_bound"] += cell["over_bound"] if cell["bound"] == "hard" else 0
    report["lost"] += cell["lost"]
    report["duplicates"] += cell["duplicates"]


def failure(config: BenchFleetConfig, fleet: Fleet, prompts: Iterator[Prompt], kind: str) -> dict[str, Any]:
    """Let one of two engines die (`kill`, by SIGKILL) or stand still (`hang`, by SIGSTOP) while both sample.

    Returns:
        `noticed_s`: seconds from the signal until its work was given to the other; `resumed`: responses that were;
        `kept_tokens`: tokens that they had by then; `back_s`: seconds until another engine stood in its place; `lost`,
        `duplicates`: groups that did not come, or came twice.
    """
    while not all(place.live for place in fleet.places):
        time.sleep(0.02)
    came: list[int] = []
    sampling = Sampling(config.responses_per_prompt, LONGEST * config.median_tokens)
    asked = [next(prompts) for _ in range(2 * config.prompts_per_step)]
    before = replace(fleet.counts)
    seeds: list[int | None] = [config.seed + place * 1000 for place in range(len(asked))]
    numbers = fleet.submit(asked, sampling, seeds, lambda number, _: came.append(number))
    half = len(asked) * config.responses_per_prompt * sampling.max_response_tokens // 4
    _until(lambda: fleet.counts.sampled_tokens - before.sampled_tokens >= half)
    place = fleet.places[0]
    assert place.described is not None
    key = place.key
    psutil.Process(place.described.pid).send_signal(signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
    sent = time.perf_counter()
    _until(lambda: fleet.counts.deaths > before.deaths)
    noticed = time.perf_counter() - sent
    _until(lambda: len(set(came)) >= len(numbers))
    _until(lambda: place.live and place.key != key)
    return {
        "noticed_s": noticed,
        "resumed": fleet.counts.resumed - before.resumed,
        "kept_tokens": fleet.counts.kept_tokens - before.kept_tokens,
        "back_s": time.perf_counter() - sent,
        "lost": len(set(numbers) - set(came)),
        "duplicates": len(came) - len(set(came)),
    }


def _until(true: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.002)


def print_report(report: Mapping[str, Any]) -> None:
    """Print cells and failures as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    columns = {
        "trained/s": "trained_tokens_per_s",
        "engines": "engines_busy",
        "trainer": "trainer_busy",
        "age": "staleness_mean",
        "oldest": "staleness_max",
    }
    table = Table("tail", "bound", "eta", "times", *columns, title=report["processor"])
    for cell in report["cells"]:
        times = report["speedup"][str(cell["tail"])][_key(cell)]
        shown = [f"{cell['tail']:g}", cell["bound"], str(cell["staleness"]), f"{times:.2f}"]
        table.add_row(*shown, *(f"{cell[name]:.3g}" for name in columns.values()))
    console.print(table)
    figures = ("noticed_s", "resumed", "kept_tokens", "back_s", "lost", "duplicates")
    table = Table("failure", *figures)
    for name, found in report["failures"].items():
        table.add_row(name, *(f"{found[figure]:.3g}" for figure in figures))
    console.print(table)
