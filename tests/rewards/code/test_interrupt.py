"""However the process that scores comes to its end, nothing that it started stays behind."""

# ruff: noqa: E501 - programs in strings
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import asyncio, signal, sys, threading, time
from evolpo.rewards.code.reward import CodeTests
from evolpo.rewards.testing import make_sample

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
program = sys.argv[1]
samples = [make_sample(text=f"```python\\n{program}\\n```", metadata={"tests": [{"stdin": "", "stdout": ""}] * 3})] * 60
score = CodeTests(timeout_s=60.0, partial=True).score
if sys.argv[2] == "main":
    asyncio.run(score(samples))
else:  # An event loop in a thread of its own, as rewards have it in training; nobody tells it to stop.
    threading.Thread(target=lambda: asyncio.run(score(samples)), daemon=True).start()
    while True:
        time.sleep(0.2)
"""
PROGRAMS = {
    "works": "while True: pass",
    "waits": "import time; time.sleep(1000)",
    "ignores signals": "import signal\n[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]\nwhile True: signal.pause()",
    "has a session of its own": "import os, time\nif os.fork() == 0:\n    os.setsid(); os.fork(); time.sleep(1000)\ntime.sleep(1000)",
    "has a session of its own, twice": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
    "        os.setsid(); time.sleep(1000)\n    os._exit(0)\ntime.sleep(1000)",
    "is short": "pass",
}


def descendants(parent):
    """Ids of a process's children and theirs, as far as they can still be told."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, fresh = set(), {parent}
    while fresh:
        fresh = {pid for pid, of in parents.items() if of in fresh}
        found |= fresh
    return found


def alive(pids):
    left = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            left.add(pid)
    return left


def all_end(pids):
    deadline = time.monotonic() + 30
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert alive(pids) == set()


@contextlib.contextmanager
def started(program, where):
    """A process that scores, and what it has started so far; killed at the end if it has not ended by itself."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, PROGRAMS[program], where], start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while len(descendants(process.pid)) < 6 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        yield process, descendants(process.pid)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("where", ["main", "thread"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_interrupt_ends_scoring_and_all_that_runs(program, where):
    with started(program, where) as (process, children):
        assert process.poll() is None
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        children |= descendants(process.pid)
        process.wait(60)
        took = time.monotonic() - begun
        all_end(children)
        # On a busy machine, those that are killed wait for a core to end on.
        assert took < 1.0 or os.getloadavg()[0] > os.cpu_count() / 2


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_whoever_kills_the_process_kills_all_that_runs(program, name):
    with started(program, "main") as (process, children):
        assert process.poll() is None
        os.kill(process.pid, signal.SIGSTOP)  # So that what it has started can be counted.
        children |= descendants(process.pid)
        os.kill(process.pid, signal.Signals[name])
        os.kill(process.pid, signal.SIGCONT)
        process.wait(60)
        all_end(children)
