"""Chat templates are programs of whoever made the model: they run in a process that can be killed, with bounded means.

The process is forked, so that it has the tokenizer and nothing is loaded twice; it closes all files but its pipe,
renders conversations as they come, and ends when nobody asks any more. A conversation costs a tenth of a millisecond.
"""

from __future__ import annotations

import atexit
import os
import resource
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CPU_S = 5.0
"""Processor time for one conversation; templates take less than a millisecond."""
WALL_S = 120.0
"""Seconds for one conversation on a machine that has no processor time to give."""
ROOM_BYTES = 1 << 30
"""Memory that the process may take beyond what it was forked with."""
LONGEST = 100_000_000
"""Characters of a rendered conversation."""
IDLE_S = 10.0
"""Seconds after which a process that nobody asks ends."""


class RenderError(ValueError):
    """A chat template did not render a conversation; the message says why.

    Args:
        reason: the first line of what the template raised, or which bound it broke.
        broken: whether it broke a bound, and did not refuse the messages.
    """

    def __init__(self, reason: str, broken: bool) -> None:
        super().__init__(reason)
        self.broken = broken


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """The text of a conversation by the chat template.

    Args:
        tokenizer: has the template, unless `options` has another.
        messages: of the conversation.
        options: further arguments of transformers' `apply_chat_template`.

    Raises:
        RenderError: the template raised, took too long or too much memory, or ended its process.
    """
    with _lock:
        try:
            return _process_of(tokenizer).ask(([dict(one) for one in messages], options))
        except _GoneError:  # it had nothing to do and left just now
            return _process_of(tokenizer).ask(([dict(one) for one in messages], options))


class _GoneError(Exception):
    """The process was not there any more when it was asked."""


@dataclass
class _Process:
    """A forked process and what it was forked with."""

    tokenizer: Any
    template: Any
    owner: int
    """The process that may ask it: a fork of that has one of its own."""
    pid: int
    pipe: Connection

    def fits(self, tokenizer: Any) -> bool:
        return self.owner == os.getpid() and self.tokenizer is tokenizer and self.template == tokenizer.chat_template

    def ask(self, request: tuple[Any, Mapping[str, Any]]) -> str:
        try:
            self.pipe.send(request)
            if not self.pipe.poll(WALL_S):
                os.kill(self.pid, signal.SIGKILL)
            kind, text = self.pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if kind != "text":
            raise RenderError(text, broken=kind == "broken")
        return str(text)

    def _ended(self) -> Exception:
        code = self.close()
        if code == 0:
            return _GoneError()
        if code == -signal.SIGPROF:
            return RenderError(f"it takes more than {CPU_S:g} s of processor time", broken=True)
        return RenderError("it ended its process, or was killed", broken=True)

    def close(self) -> int:
        """Wait for the end of the process, which comes with that of the pipe; gives its exit code."""
        global _process
        _process = None
        self.pipe.close()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


_process: _Process | None = None
_lock = threading.Lock()


def _process_of(tokenizer: Any) -> _Process:
    global _process
    if _process is not None and not _process.fits(tokenizer):
        _close()
    if _process is None:
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            _work(tokenizer, theirs)
        theirs.close()
        _process = _Process(tokenizer, tokenizer.chat_template, os.getpid(), pid, ours)
    return _process


@atexit.register
def _close() -> None:
    global _process
    if _process is not None and _process.owner == os.getpid():
        _process.close()
    _process = None


def _work(tokenizer: Any, pipe: Connection) -> NoReturn:
    """What the forked process does, to its end."""
    code = 1
    try:
        _leave_all_but(pipe)
        while pipe.poll(IDLE_S):
            messages, options = pipe.recv()
            signal.setitimer(signal.ITIMER_PROF, CPU_S)  # ends the process
            answer = _answer(tokenizer, messages, options)
            signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send(answer)
        code = 0
    except EOFError:
        code = 0
    finally:
        os._exit(code)


def _leave_all_but(pipe: Connection) -> None:
    """Part with what the other process has: its signals, its files, its memory beyond a bound."""
    for number, action in ((signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, action)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.closerange(3, pipe.fileno())
    os.closerange(pipe.fileno() + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * os.sysconf("SC_PAGE_SIZE") + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(tokenizer: Any, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> tuple[str, str]:
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        if len(text) > LONGEST:
            return "broken", f"it writes more than {LONGEST} characters"
        return "text", str(text)
    except MemoryError:
        return "broken", f"it takes more than {ROOM_BYTES >> 30} GiB of memory"
    except RecursionError:
        return "broken", "it calls itself without end"
    except BaseException as error:  # noqa: BLE001 -- it is the template's
        return "refused", (str(error) or type(error).__name__).splitlines()[0][:500]
