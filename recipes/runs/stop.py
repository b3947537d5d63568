"""SIGTERM, as clusters send it before they kill: the run saves what is finished and leaves, within seconds.

Sampling, scoring and evaluation can be broken off, for they can be done again from the last finished step; an update
cannot, and is finished. Ranks may hear the signal at different moments, or one alone, so they leave only where all of
them ask each other.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Protocol, Self, TypeVar

from evolpo.rollout.engine import Interrupted

Result = TypeVar("Result")
TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that SIGTERM has ended."""
INTERRUPTED = 128 + signal.SIGINT
"""The same for Ctrl-C."""
AGAIN_S = 2.0
"""Seconds after which what still runs is broken off once more."""


class Terminated(BaseException):
    """The run has been asked to end; the message is for its user. No `except Exception` may hold it up."""


def leave(message: str, code: int = TERMINATED) -> NoReturn:
    """Say how the run goes on and end the process at once, with all that rewards and fleets have started.

    What hangs, such as a reward, must not hold it; nor what libraries tidy up, which takes vLLM many seconds.
    """
    if os.environ.get("RANK", "0") == "0":
        print(f"evolpo: {message}", file=sys.stderr)
    for name in ("evolpo.rewards.ending", "evolpo.rollout.engine_actor"):
        if ending := sys.modules.get(name):  # Else nothing was started, and they take long to load.
            ending.end_all()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Ranks(Protocol):
    def max_over_ranks(self, value: float) -> float:
        """Largest of a number over all ranks."""


class Stop:
    """Listens for SIGTERM while it is entered; outside the main thread nobody can."""

    def __init__(self) -> None:
        self.asked = False
        """Whether the signal has come."""
        self.run: Path | None = None
        """Folder of the run, once there is one."""
        self._open = True
        """Whether what is running may be broken off; so it is until the first step begins."""
        self._together = False
        self._before: Any = None
        self._again: threading.Timer | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quiet()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def begin(self) -> None:
        """From now on break off only what is `interruptible`."""
        self._open = False

    def interruptible(self, work: Callable[[], Result], together: bool = False) -> Result | None:
        """What `work` returns; None if the signal has come or comes meanwhile. The caller asks `check` at once.

        Args:
            work: what may be broken off.
            together: whether it begins with what ranks do together, and breaks off together; then it calls `apart`.
        """
        if self.asked and not together:
            return None
        try:
            self._together, self._open = together, not together
            return work()
        except (Terminated, Interrupted):
            self._open = False
            return None
        finally:
            self._together = self._open = False
            self._quiet()

    def apart(self) -> None:
        """From here on each rank may break off its work alone."""
        self._together, self._open = False, True
        if self.asked:
            raise Terminated(self.message(None))

    def together(self) -> bool:
        """Whether what ranks do together is to be broken off; for an engine that they share."""
        return self.asked and self._together

    def check(self, ranks: _Ranks) -> None:
        """Raise Terminated on all ranks if one of them has been asked to end; every rank must call it."""
        if ranks.max_over_ranks(float(self.asked)) > 0:
            self.asked = True
            raise Terminated(self.message(None))

    def message(self, step: int | None) -> str:
        """What the user is told: how far the run is saved, and how it goes on.

        Args:
            step: of the newest checkpoint; None without one.
        """
        if self.run is None:
            return "ended by SIGTERM before the run began; give the same command again"
        saved = "no step was finished" if not step else f"step {step} is saved"
        return f"ended by SIGTERM; {saved}; resume={self.run} goes on"

    def _quiet(self) -> None:
        if self._again is not None:
            self._again.cancel()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._open:
            # Python ignores what is raised in a destructor, or in a callback from C: then it is said again.
            self._quiet()
            self._again = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
            self._again.daemon = True
            self._again.start()
            raise Terminated(self.message(None))
