"""`evolpo bench step`: seconds and memory of one GRPO step, evolpo beside TRL 1.16, in turns on the same machine.

Each side lives in a process of its own, loads once and then waits on its stdin for its turn, so that the two
alternate and never compute at the same time. The process that calls `bench_step` only hands out the turns. Both get the
same model folder, prompts, responses per prompt, budget, temperature 1, reward, precision, number of threads and
optimizer (AdamW, one optimizer step a rollout, no KL penalty, gradients clipped at norm 1). What they sample differs,
and so do the lengths: compare tokens a second as well.

Run as a module, this file is evolpo's worker; `step_trl` is the other one.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from evolpo import InputError
from evolpo.model import ModelConfig
from evolpo.recipes.runs.checks import check_not_negative, check_positive

if TYPE_CHECKING:
    from evolpo.rl.data import Batch, Group, Prompt
    from evolpo.rl.trainer import Trainer
    from evolpo.rollout.vllm_engine import VllmEngine

P = ParamSpec("P")
R = TypeVar("R")

WORKERS = {"evolpo": "evolpo.recipes.bench.step", "trl": "evolpo.recipes.bench.step_trl"}
"""Modules of the two sides. evolpo starts first: vLLM wants to find a GPU nearly empty."""
TRL_VERSION = "1.16."
PHASES = ("rollout", "reward", "logprobs", "backward", "optimizer", "sync", "other")
"""What a step is made of. evolpo's `reward` includes advantages and segmentation; `sync`: new weights for vLLM."""
TRAINING = ("logprobs", "backward", "optimizer")
WANTED_SPEEDUP = 4.0
LEARNING_RATE = 1e-6
PAUSE_S = 0.5
"""Between turns: OpenMP threads go on spinning for up to 0.2 s after their last work."""
GB = 1e9


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
        if self.precision not in ("auto", "bf16", "fp32"):
            raise InputError(f"precision: {self.precision!r} is none of auto, bf16, fp32")
        if not self.output.endswith(".json"):
            raise InputError(f"output: {self.output!r} does not end in .json; give the file of the results")


@dataclass(frozen=True)
class StepTask:
    """What both workers are told, as JSON on the command line."""

    model: str
    """Folder in Hugging Face layout, or hub name."""
    questions: list[str]
    responses_per_prompt: int
    max_response_tokens: int
    steps: int
    """All steps, the warmup included."""
    precision: str
    compile: bool
    seed: int


def questions(count: int, seed: int) -> list[str]:
    """Questions of arithmetic, about equally long."""
    draw = random.Random(seed).randint
    return [
        f"What is {draw(10, 99)} + {draw(10, 99)} - {draw(10, 99)}? Explain every step in a sentence of its own."
        for _ in range(count)
    ]


def reward(token_ids: Sequence[int]) -> float:
    """A hash of the response as a number in [0, 1).

    Any two responses differ in it, whatever the model: on both sides every response carries a signal.
    """
    return zlib.crc32(array("q", token_ids).tobytes()) / 2**32


# --- workers ----------------------------------------------------------------------------------------------------------


class Turns:
    """A worker's end of the pipes: it waits for its turn on stdin and answers with one line of JSON on stdout."""

    def __init__(self) -> None:
        """Take stdout for the answers alone; what libraries print goes to stderr, the log."""
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> bool:
        """Block until it is this worker's turn; False: there will be none any more."""
        return sys.stdin.readline() == "step\n"

    def ready(self, precision: str) -> None:
        """Say that everything is loaded, and under which conditions the worker runs."""
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        self.answer({"device": device, "precision": precision, "threads": torch.get_num_threads()})

    def answer(self, values: Mapping[str, Any]) -> None:
        """Send one answer."""
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()


class Stopwatch:
    """Seconds of one step, by phase. The device is waited for wherever a time is taken."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin a step."""
        self._phases = dict.fromkeys(PHASES, 0.0)
        self._began = _now()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what runs inside towards a phase; phases must not be nested."""
        began = _now()
        yield
        self._phases[name] += _now() - began

    def timed(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        """The same function, counted towards a phase."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.phase(name):
                return function(*args, **kwargs)

        return call

    def stop(self, prompt_tokens: int, response_tokens: int) -> dict[str, Any]:
        """End the step: the worker's answer.

        Args:
            prompt_tokens: of all responses' prompts, without padding.
            response_tokens: of all responses, without padding.
        """
        seconds = _now() - self._began
        self._phases["other"] = seconds - sum(self._phases.values())
        return {
            "seconds": seconds,
            "phases": self._phases,
            "prompt_tokens": prompt_tokens,
            "response_tokens": response_tokens,
            "peak_gb": peak_gb(),
        }


def _now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gb() -> float:
    """Most memory this process ever held, in GB (1e9 bytes): of the GPU if there is one, else of main memory."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated() / GB)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts what the parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / GB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GB  # bytes on macOS


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


# --- the one who hands out the turns ----------------------------------------------------------------------------------


class Side:
    """A worker as its parent sees it."""

    def __init__(self, name: str, task: StepTask, log: Path) -> None:
        """Start the worker and wait until it is ready."""
        self.name, self._log = name, log
        command = [sys.executable, "-m", WORKERS[name], json.dumps(asdict(task))]
        defaults = {"OMP_NUM_THREADS": str(os.cpu_count()), "CUDA_VISIBLE_DEVICES": "0"}
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=defaults | dict(os.environ) | {"TOKENIZERS_PARALLELISM": "false"},
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
    conditions, steps = _measure(task, output)
    setting = {**asdict(task), "warmup": config.warmup, **conditions["evolpo"], "trl": version("trl")}
    report = summarise({name: taken[config.warmup :] for name, taken in steps.items()}, setting)
    output.write_text(json.dumps(report, indent=2) + "\n")
    print_report(report)
    return report


def _measure(task: StepTask, output: Path) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, Any]]]]:
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


# --- figures ----------------------------------------------------------------------------------------------------------


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


if __name__ == "__main__":
    channel = Turns()
    run_evolpo(StepTask(**json.loads(sys.argv[1])), channel)
