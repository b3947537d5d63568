"""`evolpo bench losses`: time and memory of every loss and speed of every segmenter, in turns on the same machine.

A loss is timed as the trainer calls it: from log-probabilities that exist to their gradient, metrics included. Its
memory is the most that the call holds at once above what stood before it, as the allocator counts: on a CPU the running
sum of what the profiler sees allocated and freed, on a GPU PyTorch's own peak. The gradient is in it, the
log-probabilities are not.

On a CPU one thread does it all: operations this small gain little from a second one, and on a machine that has other
work, waiting for it can take ten times as long as the loss.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from evolpo.model import ModelConfig, load_tokenizer, model_folder
from evolpo.recipes.runs.checks import check_positive
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress
from evolpo.rl.losses import LOSSES
from evolpo.rl.segment import SEGMENTERS

WARMUP = 5
"""Passes of each side before those that count."""
BASELINE = "grpo"
SENTENCE_TOKENS = (5, 36)
"""Sentences have 5 to 35 tokens, 20 in the mean."""
PASSAGE = """Let us count what is left in case {n}. The first term is {n}.5, i.e. half a step more than before; the \
second one, by Dr. Lee's rule, is $x_{{{n}}} = \\frac{{1}}{{2}}$. Is that enough? No! We still need the sum of terms...

1. Take away {n}: what remains is 3.14 times as large, cf. Fig. 2 at https://example.org/terms?n={n}.
2. Add it again, etc. Then "the rest" follows.

```python
total = sum(terms[:{n}])  # all of them. Really.
print(total)
```
Therefore the answer is {n}, which agrees with what we have found above. Wait, let me check once more: it does.

"""


@dataclass
class BenchLossesConfig:
    """`evolpo bench losses`: forward and backward pass of every loss, and every segmenter."""

    batch: int = 8
    """Responses in a call."""
    tokens: int = 4096
    """Tokens of a response."""
    repeats: int = 50
    """Measured calls of each."""
    output: str = "outputs/bench/losses.json"
    """File of the results."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_positive(self, "batch", "tokens", "repeats")


def main(config: BenchLossesConfig) -> None:
    """Run `evolpo bench losses` from the command line: the figures in a few lines."""
    report = bench_losses(config)
    console = Console(markup=False, highlight=False)
    for table in tables(report):
        console.print(table)
    print(config.output)


def bench_losses(config: BenchLossesConfig) -> dict[str, Any]:
    """Measure, write and return.

    Returns:
        `{name}_over_grpo`: median time of a loss over that of GRPO; `losses`: by name `ms` (median, forward and
        backward) and `peak_mib`; `segmenters`: by name `ms` (median, the whole batch) and `tokens_per_s`; `setting`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with Progress(config.repeats, LoggerConfig()) as progress:
        calls = loss_calls(config, device)
        progress.note(f"timing {len(calls)} losses on {config.batch} x {config.tokens} tokens")
        with _one_thread():
            loss_ms = medians_ms(calls, config.repeats, device)
        progress.note("measuring their memory")
        peaks = {name: peak_bytes(call, device) for name, call in calls.items()}
        progress.note(f"timing {len(SEGMENTERS)} segmenters")
        segmenter_ms = medians_ms(segmenter_calls(config), config.repeats, torch.device("cpu"))
    size = config.batch * config.tokens
    report = {
        **{f"{name}_over_{BASELINE}": ms / loss_ms[BASELINE] for name, ms in loss_ms.items() if name != BASELINE},
        "losses": {name: {"ms": ms, "peak_mib": peaks[name] / 2**20} for name, ms in loss_ms.items()},
        "segmenters": {name: {"ms": ms, "tokens_per_s": size / ms * 1000} for name, ms in segmenter_ms.items()},
        "setting": asdict(config) | {"device": device.type, "threads": 1},
    }
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    return report


def tables(report: Mapping[str, Any]) -> list[Table]:
    """What was measured, for a terminal."""
    losses = Table("loss", "ms", f"over {BASELINE}", "peak MiB")
    for name, found in report["losses"].items():
        ratio = report.get(f"{name}_over_{BASELINE}", 1.0)
        losses.add_row(name, f"{found['ms']:.3f}", f"{ratio:.2f}", f"{found['peak_mib']:.2f}")
    segmenters = Table("segmenter", "ms", "tokens/s")
    for name, found in report["segmenters"].items():
        segmenters.add_row(name, f"{found['ms']:.2f}", f"{found['tokens_per_s']:,.0f}")
    return [losses, segmenters]


def medians_ms(calls: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each call, all of them in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + WARMUP):
        for name, call in calls.items():
            start = _now(device)
            call()
            if repeat >= WARMUP:
                seconds[name].append(_now(device) - start)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def loss_calls(config: BenchLossesConfig, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """By name of a loss, a call that gives the gradient of log-probabilities [batch, tokens], float32."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch, config.tokens)
    old = (torch.randn(shape, generator=generator) - 3).to(device)
    logprobs = old + 0.1 * torch.randn(shape, generator=generator).to(device)
    advantages = torch.randn(config.batch, generator=generator).to(device)
    mask = torch.ones(shape, dtype=torch.bool, device=device)
    units = torch.from_numpy(np.stack([_sentences(config.tokens, row) for row in range(config.batch)])).to(device)

    def call_of(name: str) -> Callable[[], Tensor]:
        loss = LOSSES[name]
        denominator = config.batch if loss.reduction == "sequence_mean" else config.batch * config.tokens

        def call() -> Tensor:
            given = logprobs.detach().requires_grad_()
            value, _ = loss(given, old, advantages, mask, units, denominator=float(denominator))
            (gradient,) = torch.autograd.grad(value, given)
            return gradient

        return call

    return {name: call_of(name) for name in LOSSES}


def _sentences(tokens: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Sentence ids of a response."""
    lengths = np.random.default_rng(seed).integers(*SENTENCE_TOKENS, size=tokens)
    return np.repeat(np.arange(tokens), lengths)[:tokens]


def segmenter_calls(config: BenchLossesConfig) -> dict[str, Callable[[], object]]:
    """By name of a segmenter, a call that cuts responses of prose, lists, mathematics and code, tokens of ling_nano."""
    tokenizer = load_tokenizer(model_folder(ModelConfig(name="ling_nano")))
    responses = [_response_ids(tokenizer, config.tokens, 100 * row) for row in range(config.batch)]

    def call_of(name: str) -> Callable[[], object]:
        return lambda: [SEGMENTERS[name](ids, tokenizer) for ids in responses]

    return {name: call_of(name) for name in SEGMENTERS}


def _response_ids(tokenizer: Any, tokens: int, first: int) -> list[int]:
    ids: list[int] = []
    for n in count(first):
        ids += tokenizer(PASSAGE.format(n=n), add_special_tokens=False)["input_ids"]
        if len(ids) >= tokens:
            break
    return ids[:tokens]


def peak_bytes(call: Callable[[], Tensor], device: torch.device) -> int:
    """Most bytes of tensors that a call holds at once, above those that stood before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it tells stderr when it starts and when it stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    return int(np.cumsum([size for _, size in changes]).max())
