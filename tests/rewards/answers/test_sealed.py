"""The sealed process: what it lets through, and what becomes of all else."""

import contextlib
import ctypes
import os
import socket
from pathlib import Path

import pytest

from evolpo.rewards.answers import sealed
from evolpo.rewards.answers.equal import same_answer
from evolpo.rewards.answers.sealed import ComputationFailed, TextExecuted, sealed_call

PLACE = Path(__file__).parent / "written.txt"


def double(number):
    return 2 * number


def endless():
    while True:
        pass


def huge():
    return len(bytearray(4 << 30))


def deep(n=0):
    return deep(n + 1)


def crash():
    return ctypes.string_at(0)


def evaluate(text, quietly):
    try:
        return eval(text)
    except Exception:
        if not quietly:
            raise
        return 1.0


def write():
    return PLACE.write_text("x")


def run():
    return os.spawnl(os.P_WAIT, "/bin/true", "true")


def connect():
    socket.create_connection(("127.0.0.1", 9), timeout=1)


def kill_parent():
    os.kill(os.getppid(), 9)


def read():
    return len(Path(__file__).read_text())


def test_values_come_out():
    assert sealed_call(double, 2.5) == 5.0
    assert sealed_call(double, True) == 2.0
    assert sealed_call(read) == len(Path(__file__).read_text())


@pytest.mark.parametrize("function", [huge, deep, crash, write, run, connect, kill_parent])
def test_what_is_not_computing_fails(function):
    with pytest.raises(ComputationFailed):
        sealed_call(function)
    assert not PLACE.exists()
    assert sealed_call(double, 1) == 2.0


def test_time_is_bounded(monkeypatch):
    if sealed._current is not None:
        sealed._current.end()
    monkeypatch.setattr(sealed, "CPU_S", 0.5)
    with pytest.raises(ComputationFailed, match="CPU time"):
        sealed_call(endless)
    assert sealed_call(double, 1) == 2.0
    sealed._current.end()


@pytest.mark.parametrize("quietly", [False, True])
def test_text_is_not_run_and_that_is_said(quietly):
    with pytest.raises(TextExecuted, match="run text as code"):
        sealed_call(evaluate, "1 + 1", quietly)
    assert sealed_call(double, 1) == 2.0


@pytest.mark.parametrize(
    "answer",
    [
        r"\int_0^\infty \frac{\sin x}{x} dx",
        r"\sum_{k=1}^{\infty} \frac{1}{k^2}",
        r"\int_0^1 x^x dx",
        r"\int \sqrt{1-x^4} dx",
        r"\int \frac{e^x}{x} dx",
        r"\int e^{-x^2} dx",
        r"\sum_{n=0}^{\infty} \frac{x^n}{n!}",
    ],
)
def test_what_sympy_imports_late_is_there_before_the_doors_close(answer):
    if sealed._current is not None:
        sealed._current.end()  # A process that has not worked anything out yet.
    for reference in ("x+1", "5"):
        with contextlib.suppress(ComputationFailed):  # Too much time, on a busy machine; never text that is run.
            assert not same_answer(reference, answer)
