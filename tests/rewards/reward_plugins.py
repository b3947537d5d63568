"""Plugins that do everything a plugin can do wrong; the text of the sample says what."""

import asyncio
import contextlib
import ctypes
import functools
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np

from evolpo.rewards import Sample, Score, group_reward, sample_reward

HEAVY = ("torch", "transformers", "vllm", "deepspeed", "reasoning_gym", "math_verify", "sympy")


class UnspeakableError(Exception):
    """Cannot be shown, and cannot be pickled."""

    def __str__(self):
        raise RuntimeError("no words")


def misbehave(sample: Sample):
    text = sample.text
    if text == "hang":
        while True:
            pass
    if text == "regex":  # Holds the interpreter lock, so no thread of the process could notice the time.
        return re.match(r"(a+)+$", "a" * 60 + "b") is not None
    if text == "exit":
        os._exit(3)
    if text == "sys.exit":
        sys.exit(3)
    if text == "segfault":
        ctypes.string_at(0)
    if text == "raise":
        raise KeyError("no such thing")
    if text == "interrupt":
        raise KeyboardInterrupt
    if text == "generator exit":
        raise GeneratorExit
    if text == "cannot be shown":
        raise UnspeakableError(lambda: None)
    if text.startswith("sleep "):
        time.sleep(float(text.removeprefix("sleep ")))
        return 1.0
    results = {
        "nan": float("nan"),
        "inf": float("inf"),
        "none": None,
        "str": "1.0",
        "dict": {"score": 1.0},
        "numpy metric": Score(1.0, metrics={"length": np.float32(1.0), "half": Fraction(1, 2), "text": "x"}),
        "lambda": lambda: 1.0,
        "lambda in artifacts": Score(1.0, artifacts={"function": lambda: 1.0}),
        "true": True,
        "fail": Score.model_fail("not even text"),
        "heavy": float(any(name in sys.modules for name in HEAVY)),
        "pid": float(os.getpid()),
    }
    return results.get(text, 0.5)


def reference_answer_was_never_checked(sample: Sample):
    return 1.0


@sample_reward
def plain(sample: Sample) -> float:
    return misbehave(sample)


@sample_reward(isolate=True, timeout_s=0.5)
def isolated(sample: Sample) -> float:
    return misbehave(sample)


@sample_reward(isolate=True)
async def isolated_coroutine(sample: Sample) -> float:
    await asyncio.sleep(0.01)
    return misbehave(sample)


@sample_reward(timeout_s=0.3)
async def coroutine(sample: Sample) -> float:
    if sample.text == "hang":
        await asyncio.sleep(60)
    if sample.text == "own timeout":
        raise TimeoutError("connection lost")
    await asyncio.sleep(0.01)
    return misbehave(sample)


@sample_reward
def wordy(sample: Sample, *, word: str = "please") -> float:
    return float(word in sample.text)


@sample_reward
@functools.cache
def cached_length(text: str) -> float:
    return float(len(text))


@group_reward
def shortest(samples: list[Sample]) -> list[float]:
    """1 for the shortest response of its group; a mixed group is a bug in the caller."""
    assert len({sample.prompt for sample in samples}) == 1
    return [float(sample.token_count == min(one.token_count for one in samples)) for sample in samples]


@group_reward(isolate=True, timeout_s=0.5)
def isolated_group(samples: list[Sample]) -> list[float]:
    return [misbehave(sample) for sample in samples]


@group_reward
def one_too_few(samples: list[Sample]) -> list[float]:
    return [1.0] * (len(samples) - 1)


@group_reward
def half_right(samples: list[Sample]) -> list:
    return [1.0, "1.0", Score.model_fail("bad"), float("nan")][: len(samples)]


@sample_reward
def number_at(sample: Sample, *, index: int) -> float:
    """The number at this place of a text such as `1.0,-2.5`; `x` there raises."""
    return float(sample.text.split(",")[index])


@group_reward
def group_number_at(samples: list[Sample], *, index: int) -> list[float]:
    return [float(sample.text.split(",")[index]) for sample in samples]


class Counted:
    """A reward written by hand that fails the first `failures` times it sees a sample."""

    name = "counted"
    scope = "sample"

    def __init__(self, failures: int = 0):
        self.failures = failures
        self.calls: list[int] = []

    async def score(self, samples):
        self.calls.append(len(samples))
        if len(self.calls) <= self.failures:
            raise ConnectionError("judge is away")
        return [Score(1.0, metrics={"calls": len(self.calls)}) for _ in samples]


class Unruly(Counted):
    name = "unruly"

    async def score(self, samples):
        return [1.0 for _ in samples]


not_a_reward = 3


@sample_reward
async def slow_judge(sample):
    await asyncio.sleep(1.0)
    return float(sample.text == "b")


@sample_reward
def not_for_me(sample):
    return None


# -- what a plugin finds where it runs -----------------------------------------------------------------------------


def _with_alarm(text):
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(5)
    try:
        return float(len(text))
    finally:
        signal.alarm(0)


@sample_reward
def own_event_loop(sample):
    async def length():
        await asyncio.sleep(0)
        return float(len(sample.text))

    return asyncio.run(length())


@sample_reward
def own_signal(sample):
    return _with_alarm(sample.text)


@sample_reward
async def own_signal_in_coroutine(sample):
    return _with_alarm(sample.text)


@sample_reward
def alarm_left_behind(sample):
    signal.alarm(1)
    time.sleep(0.4)
    return float(len(sample.text))


_calls = 0


@sample_reward(timeout_s=0.5)
def slow_first(sample):
    global _calls
    _calls += 1
    if _calls == 1:
        time.sleep(1.5)
    return float(len(sample.text))


@sample_reward(timeout_s=0.5, cold_timeout_s=3.0)
async def blocks(sample):
    if sample.text == "block":
        time.sleep(60)
    await asyncio.sleep(0.05)
    return float(len(sample.text))


@sample_reward(timeout_s=0.5, cold_timeout_s=1.0)
async def refuses_to_end(sample):
    while sample.text == "stay":
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
    return float(len(sample.text))


@sample_reward(timeout_s=0.3, cold_timeout_s=2.0)
def late(sample):
    time.sleep(float(sample.text))
    return 1.0


@sample_reward(timeout_s=0.5, cold_timeout_s=2.0)
def with_children(sample):
    if sample.text:
        number = sample.text
        subprocess.Popen(["sleep", number], start_new_session=True)
        subprocess.Popen(["sh", "-c", f"sleep {number} & exit"])
        time.sleep(60)
    return 1.0


length_by_partial = sample_reward(functools.partial(lambda sample, factor: factor * len(sample.text), factor=1.0))


class Length:
    def __call__(self, sample):
        return float(len(sample.text))


length_by_object = sample_reward(Length())
length_by_lambda = sample_reward(lambda sample: len(sample.text))


@sample_reward
def coerced(sample, *, count: int = 1, share: float = 0.5, flag: bool = False, word: str = "a", maybe: int | None = 3):
    return float(count) + share + 100 * flag
