"""`evolpo bench step`: seconds and memory of one GRPO step, evolpo beside TRL 1.16, in turns on the same machine.

Each side lives in a process of its own, loads once and then waits on its stdin for its turn, so that the two
alternate and never compute at the same time. This file only hands out the turns and compares. Both get the
same model folder, prompts, responses per prompt, budget, temperature 1, reward, precision, number of threads and
optimizer (AdamW, one optimizer step a rollout, no KL penalty, gradients clipped at norm 1). What they sample differs,
and so do the lengths: compare tokens a second as well.

The sides are `step_evolpo` and `step_trl`; what they share is in `step_side`.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.model import ModelConfig
from evolpo.recipes.bench.step_side import PHASES, StepTask
from evolpo.recipes.runs.checks import check_not_negative, check_positive, check_precision, check_results_file

WORKERS = {"evolpo": "evolpo.recipes.bench.step_evolpo", "trl": "evolpo.recipes.bench.step_trl"}
"""Modules of the two sides. evolpo starts first: vLLM wants to find a GPU nearly empty."""
TRL_VERSION = "1.16."
TRAINING = ("logprobs", "backward", "optimizer")
WANTED_SPEEDUP = 4.0
PAUSE_S = 0.5
"""Between turns: OpenMP threads go on spinning for up to 0.2 s after their last work."""


@dataclass
class BenchStepConfig:
    """`evolpo bench step`: time and memory of a training step beside TRL's."""

    model: ModelConfig = field(default_factory=lambda: ModelConfig(name="smollm2"))
    prompts: int = 4
    """Prompts in a step."""
    responses_per_prompt: int = 8
    """Responses to each prompt: the group."""
    max_response_tokens: int = 128
    """Budget of a response."""
    steps: int = 3
    """Measured steps of each side."""
    warmup: int = 1
    """Steps of each side before those."""
    precision: str = "auto"
    """bf16, fp32, or auto: bf16 where the hardware multiplies it fast, else fp32."""
    compile: bool = True
    """Let vLLM compile the model first (a minute, not counted); needs a C++ compiler. False: eager."""
    output: str = "outputs/bench/step.json"
    """File of the results; the logs of the two sides are put beside it."""
    seed: int = 0
    """Seed of prompts and sampling."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_positive(self, "prompts", "max_response_tokens", "steps")
        if self.responses_per_prompt < 2:
            raise InputError(f"responses_per_prompt: {self.responses_per_prompt} is no group; give at least 2")
        check_not_negative(self, "warmup", "seed")
        check_precision(self.precision)
        check_results_file(self.output)


def questions(count: int, seed: int) -> list[str]:
    """Questions of arithmetic, about equally long."""
    draw = random.Random(seed).randint
    return [
        f"What is {draw(10, 99)} + {draw(10, 99)} - {draw(10, 99)}? Explain every step in a sentence of its own."
        for _ in range(count)
    ]


class Side:
    """A worker as its parent sees it."""

    def __init__(self, name: str, task: StepTask, log: Path) -> None:
        """Start the worker and wait until it is ready."""
        self.name, self._log = name, log
        command = [sys.executable, "-P", "-m", WORKERS[name], json.dumps(asdict(task))]
        defaults = {"OMP_NUM_THREADS": str(os.cpu_count()), "CUDA_VISIBLE_DEVICES": "0"}
        # Of a trainer that ran in this process before; accelerate would look for the other ranks.
        outside = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=defaults | outside | {"TOKENIZERS_PARALLELISM": "false"},
            )
        try:
            self.conditions = self._answer()
        except BaseException:
            self.close()
            raise

    def step(self) -> dict[str, Any]:
        """Let the worker take its turn; its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died: there is no answer
        return self._answer()

    def close(self) -> None:
        """Let the worker end, or end it."""
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(
                f"bench: the {self.name} side died with exit code {code}; the end of {self._log}:\n{tail}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


def check_trl() -> None:
    """Raise InputError unless the version of TRL that is compared with is installed."""
    try:
        found = version("trl")
    except PackageNotFoundError:
        found = ""
    if not found.startswith(TRL_VERSION):
        raise InputError(f"bench: needs TRL 1.16{f', not {found}' * bool(found)}; pip install 'evolpo[bench]'")


def bench_step(config: BenchStepConfig) -> dict[str, Any]:
    """Let the two sides step in turn; write and return the figures, and print them as a table.

    Returns:
        `evolpo_s`, `trl_s`: median seconds of a step; `speedup`: their ratio; `evolpo_peak_gb`, `trl_peak_gb`: see
        `peak_gb`; `evolpo`, `trl`: by side the median seconds and the response tokens a second of each phase (see
        `PHASES`) and all measured steps; `setting`.

    Raises:
        InputError: TRL is missing, or the model folder or the output is unusable.
        RuntimeError: a side died; the message has the end of its log.
    """
    from evolpo.model import model_folder

    check_trl()
    output = Path(config.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output: {output} cannot be written ({error.strerror}); give another file") from None
    task = StepTask(
        model=model_folder(config.model),
        questions=questions(config.prompts, config.seed),
        responses_per_prompt=config.responses_per_prompt,
        max_response_tokens=config.max_response_tokens,
        steps=config.warmup + config.steps,
        precision=config.precision,
        compile=config.compile,
        seed=config.seed,
    )
    conditions, steps = measure(task, output)
    setting = {**asdict(task), "warmup": config.warmup, **conditions["evolpo"], "trl": version("trl")}
    report = summarise({name: taken[config.warmup :] for name, taken in steps.items()}, setting)
    output.write_text(json.dumps(report, indent=2) + "\n")
    print_report(report)
    return report


def measure(task: StepTask, output: Path) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Conditions and steps, the warmup included, of each side."""
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in WORKERS}
    with ExitStack() as stack:
        sides = []
        for name in WORKERS:
            _progress(f"loading {name}")
            sides.append(Side(name, task, output.with_suffix(f".{name}.log")))
            stack.callback(sides[-1].close)
        conditions = {side.name: side.conditions for side in sides}
        if conditions["evolpo"] != conditions["trl"]:
            raise RuntimeError(f"bench: the two sides run under different conditions: {conditions}")
        for number in range(1, task.steps + 1):
            for side in sides:
                time.sleep(PAUSE_S)
                answer = side.step()
                steps[side.name].append(answer)
                tokens = answer["response_tokens"]
                _progress(f"step {number}/{task.steps} {side.name}: {answer['seconds']:.2f} s, {tokens} tokens")
    return conditions, steps


def _progress(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


def summarise(steps: Mapping[str, Sequence[Mapping[str, Any]]], setting: Mapping[str, Any]) -> dict[str, Any]:
    """The report from the measured steps of each side, `evolpo` and `trl`."""
    seconds = {name: statistics.median(step["seconds"] for step in taken) for name, taken in steps.items()}
    peaks = {name: max(step["peak_gb"] for step in taken) for name, taken in steps.items()}
    return {
        "evolpo_s": seconds["evolpo"],
        "trl_s": seconds["trl"],
        "speedup": seconds["trl"] / seconds["evolpo"],
        "evolpo_peak_gb": peaks["evolpo"],
        "trl_peak_gb": peaks["trl"],
        **{name: _side_figures(taken) for name, taken in steps.items()},
        "setting": dict(setting),
    }


def _side_figures(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    tokens = sum(step["response_tokens"] for step in steps)
    totals = {name: sum(step["phases"][name] for step in steps) for name in PHASES}
    totals["training"] = sum(totals[name] for name in TRAINING)
    totals["step"] = sum(step["seconds"] for step in steps)
    return {
        "phases_s": {name: statistics.median(step["phases"][name] for step in steps) for name in PHASES},
        "tokens_per_s": {name: tokens / total for name, total in totals.items() if total > 0},
        "response_tokens": tokens / len(steps),
        "steps": [dict(step) for step in steps],
    }


def print_report(report: Mapping[str, Any]) -> None:
    """Print the figures as a table, and where the time goes if the speed-up falls short of what is wanted."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "evolpo s", "TRL s", "evolpo tokens/s", "TRL tokens/s", title="one step, medians")
    sides = [report["evolpo"], report["trl"]]
    for phase in (*PHASES, "step"):
        totals = [report["evolpo_s"], report["trl_s"]]
        seconds = totals if phase == "step" else [side["phases_s"][phase] for side in sides]
        rates = [side["tokens_per_s"].get(phase) for side in sides]
        table.add_row(phase, *(f"{s:.3f}" for s in seconds), *("" if rate is None else f"{rate:.0f}" for rate in rates))
    table.add_row("response tokens", *(f"{side['response_tokens']:.0f}" for side in sides), "", "")
    table.add_row("peak GB", f"{report['evolpo_peak_gb']:.2f}", f"{report['trl_peak_gb']:.2f}", "", "")
    console = Console()
    console.print(table)
    console.print(f"{report['speedup']:.1f} times TRL's speed, {WANTED_SPEEDUP:g} wanted")
    if report["speedup"] < WANTED_SPEEDUP:
        phases = sorted(report["evolpo"]["phases_s"].items(), key=lambda item: -item[1])
        shares = ", ".join(f"{name} {seconds / report['evolpo_s']:.0%}" for name, seconds in phases)
        console.print(f"evolpo's time goes to: {shares}")
