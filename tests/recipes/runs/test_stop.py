"""SIGTERM breaks off what may be broken off, also where what it raises is ignored at first."""

import os
import signal
import threading
import time

from evolpo.recipes.runs.stop import AGAIN_S, Stop


class Deaf:
    """Ignores what is raised while it is collected, as Python does."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)


def worked(work) -> tuple[object, float, bool]:
    """What `interruptible` returns, after how many seconds, and whether the signal was heard."""
    with Stop() as stop:
        stop.begin()
        began = time.monotonic()
        result = stop.interruptible(work)
        return result, time.monotonic() - began, stop.asked


def test_work_is_broken_off_at_once() -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    result, seconds, asked = worked(lambda: time.sleep(30))
    assert result is None
    assert asked
    assert seconds < AGAIN_S


def test_a_signal_that_python_ignored_is_heard_again(recwarn) -> None:
    def work() -> str:
        Deaf()
        time.sleep(30)
        return "done"

    result, seconds, asked = worked(work)
    assert result is None
    assert asked
    assert AGAIN_S - 0.5 < seconds < 15


def test_nothing_comes_after_the_work() -> None:
    def work() -> str:
        Deaf()
        return "done"

    assert worked(work)[0] == "done"
    time.sleep(AGAIN_S + 0.5)  # A signal by then would end the tests.
