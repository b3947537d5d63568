"""SIGTERM breaks off what may be broken off, also where what it raises is ignored at first."""

import os
import signal
import threading
import time

from evolpo.recipes.runs.stop import AGAIN_S, Stop
from evolpo.rollout.engine import Interrupted


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


def signal_in(seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()


def test_what_ranks_do_together_is_broken_off_together() -> None:
    """The signal alone must not: the other ranks would wait. What follows is broken off at once."""
    with Stop() as stop:
        stop.begin()
        heard = []

        def work() -> str:
            signal_in(0.1)
            deadline = time.monotonic() + 5
            while not stop.together() and time.monotonic() < deadline:
                time.sleep(0.01)
            heard.append(stop.together())
            raise Interrupted

        assert not stop.together()
        assert stop.interruptible(work, together=True) is None
        assert heard == [True]
        assert not stop.together()


def test_a_rank_that_has_been_asked_still_goes_where_the_others_wait() -> None:
    with Stop() as stop:
        stop.begin()
        stop.asked = True
        reached = []

        def work() -> str:
            reached.append(stop.together())
            stop.apart()
            return "done"

        assert stop.interruptible(work, together=True) is None
        assert reached == [True]
        assert stop.interruptible(lambda: reached.append(False)) is None
        assert reached == [True]


def test_what_follows_the_common_work_is_broken_off_at_once() -> None:
    def work() -> None:
        stop.apart()
        signal_in(0.1)
        time.sleep(30)

    with Stop() as stop:
        stop.begin()
        began = time.monotonic()
        assert stop.interruptible(work, together=True) is None
        assert time.monotonic() - began < AGAIN_S
