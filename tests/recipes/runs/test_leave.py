"""Whoever leaves at once takes along what the rewards have started, and waits for nothing else."""

import subprocess
import sys

from evolpo.recipes.runs.stop import INTERRUPTED

LEAVING = """
import atexit, threading, time
from evolpo.recipes.runs.stop import INTERRUPTED, leave
from evolpo.rewards.ending import at_end

def fails():
    print("asked", flush=True)
    raise RuntimeError("no matter")

at_end(lambda: print("first", flush=True))
at_end(fails)
atexit.register(time.sleep, 1000)
threading.Thread(target=time.sleep, args=(1000,)).start()
leave("interrupted", INTERRUPTED)
"""


def test_leaving_waits_for_nothing_but_what_rewards_have_started() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (INTERRUPTED, "asked\nfirst\n")
    assert done.stderr == "evolpo: interrupted\n"
