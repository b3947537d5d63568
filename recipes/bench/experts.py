"""`evolpo bench experts`: the grouped mixture of experts against a loop over experts, in turns on the same machine.

The loop is that of ordinary model code: experts as modules of three linear layers each, visited one after the other.
As in training, every pass has other tokens and so another number of them for every expert.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evolpo import InputError
from evolpo.model.experts import Experts, experts_by_loop
from evolpo.model.ling import separate_experts
from evolpo.recipes.runs.checks import check_positive

WARMUP = 5
"""Passes of each side before those that count."""
Mixture = Callable[[Tensor, Tensor, Tensor], Tensor]
Pass = Callable[[int], None]
"""One forward and backward pass, by its number."""


@dataclass
class BenchExpertsConfig:
    """`evolpo bench experts`: forward and backward pass of a mixture of experts."""

    tokens: int = 4096
    """Tokens in a pass."""
    hidden: int = 256
    """Hidden size."""
    intermediate: int = 64
    """Hidden size of an expert; a quarter of `hidden`, as in Ling 2.0."""
    experts: int = 32
    """Experts there are; also measured with two and four times as many."""
    used: int = 4
    """Experts of a token."""
    repeats: int = 15
    """Measured passes of each side."""
    output: str = "outputs/bench/experts.json"
    """File of the results."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_positive(self, "tokens", "hidden", "intermediate", "experts", "used", "repeats")
        if self.used > self.experts:
            raise InputError(f"used: {self.used} experts of a token are more than experts={self.experts}")


def main(config: BenchExpertsConfig) -> None:
    """Run `evolpo bench experts` from the command line: the figures in a few lines."""
    report = bench_experts(config)
    seconds = f"grouped {report['grouped_s']:.4f} s, loop {report['loop_s']:.4f} s"
    print(f"{seconds}: {report['speedup_over_loop']:.1f} times the loop's speed")
    by_experts = ", ".join(f"{n} experts {s:.4f} s" for n, s in report["grouped_s_by_experts"].items())
    print(f"the same number used of more: {by_experts}\n{config.output}")


def bench_experts(config: BenchExpertsConfig) -> dict[str, Any]:
    """Measure, write and return: seconds of a pass, medians.

    Returns:
        `speedup_over_loop`: the loop's median over the grouped one's; `grouped_s`, `loop_s`; `grouped_s_by_experts`: of
        the grouped one with more experts and as many used; `setting`.
    """
    passes = {"grouped": _grouped(config, config.experts), "loop": _loop(config, config.experts)}
    passes |= {f"grouped {n}": _grouped(config, n) for n in (2 * config.experts, 4 * config.experts)}
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for repeat in range(config.repeats + WARMUP):
        for name, run in passes.items():
            start = time.perf_counter()
            run(repeat)
            if repeat >= WARMUP:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    by_experts = {str(config.experts): medians["grouped"]}
    by_experts |= {name.split()[1]: median for name, median in medians.items() if " " in name}
    report = {
        "speedup_over_loop": medians["loop"] / medians["grouped"],
        "grouped_s": medians["grouped"],
        "loop_s": medians["loop"],
        "grouped_s_by_experts": by_experts,
        "setting": asdict(config) | {"precision": "bf16", "threads": torch.get_num_threads()},
    }
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    return report


def _experts(config: BenchExpertsConfig, experts: int) -> Experts:
    generator = torch.Generator().manual_seed(0)
    mixture = Experts(experts, config.hidden, config.intermediate)
    for parameter in mixture.parameters():
        parameter.data.normal_(0, 0.02, generator=generator)
    return mixture.bfloat16()


def _pass(config: BenchExpertsConfig, experts: int, mixture: Mixture) -> Pass:
    weights = torch.full((config.tokens, config.used), 1 / config.used)
    drawn: dict[int, tuple[Tensor, Tensor]] = {}
    for number in range(config.repeats + WARMUP):
        generator = torch.Generator().manual_seed(number)
        hidden = torch.randn(config.tokens, config.hidden, generator=generator).bfloat16().requires_grad_()
        chosen = torch.rand(config.tokens, experts, generator=generator).topk(config.used, dim=1).indices
        drawn[number] = hidden, chosen

    def run(number: int) -> None:
        hidden, chosen = drawn[number]
        mixture(hidden, chosen, weights).backward(torch.ones_like(hidden))  # type: ignore[no-untyped-call]

    return run


def _grouped(config: BenchExpertsConfig, experts: int) -> Pass:
    return _pass(config, experts, _experts(config, experts))


def _loop(config: BenchExpertsConfig, experts: int) -> Pass:
    separate: Any = separate_experts(_experts(config, experts))
    return _pass(config, experts, lambda *given: experts_by_loop(separate, *given))
