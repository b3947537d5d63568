"""What the two sides of `evolpo bench step` share: the task, the turns, the reward, how time and memory are taken."""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

PHASES = ("rollout", "reward", "logprobs", "backward", "optimizer", "sync", "other")
"""What a step is made of. evolpo's `reward` includes advantages and segmentation; `sync`: new weights for vLLM."""
LEARNING_RATE = 1e-6
GB = 1e9


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
    full_length: bool = False
    """Let every response run to its budget: the model's end of text is no end that the chat template names either."""


def reward(token_ids: Sequence[int]) -> float:
    """A hash of the response as a number in [0, 1).

    Any two responses differ in it, whatever the model: on both sides every response carries a signal.
    """
    return zlib.crc32(array("q", token_ids).tobytes()) / 2**32


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
