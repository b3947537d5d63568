"""Does the program work? Test cases decide, run in a sandbox (code reward of the Ling 2.0 report, section 4.4)."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from evolpo.rewards.base import Sample, Scope, Score
from evolpo.rewards.code.cases import Case, QueryCase
from evolpo.rewards.code.languages import LANGUAGES, SETUP_FAILED, check_language, run_case
from evolpo.rewards.code.sandbox import Limits, SandboxError, SandboxMissing, SandboxResult
from evolpo.rewards.code.shapes import cases_of
from evolpo.rewards.service.workers import describe
from evolpo.rewards.visible import visible
from evolpo.rl.data import Answer, Prompt

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

WALL_FACTOR = 30
"""Seconds on the clock for each CPU second of a case: a far bound, for machines on which many want the cores."""
MIN_WALL_S = 60.0
MAX_WAITING = 2
"""Cases of one response that may come to nothing but waiting; it fails the others unseen. Or one response that sleeps
in each of a hundred cases would hold up all others."""
WAITERS = 16
"""How many programs that wait may stand beside those that have the cores."""
MIN_MEMORY_MIB = 64


def extract_program(text: str, language: str) -> str | None:
    """The program of a response: its last fenced block in this language.

    Else the last fenced block that names no language; else, if there is no fence at all, the whole text. None if there
    are only blocks in other languages, or nothing but blanks. A block that is never closed goes to the end (CommonMark,
    section 4.5). Other than in CommonMark a fence may be indented by more than three blanks, and tags such as
    `<answer>` around it make no difference.
    """
    blocks = [token for token in _block_parser().parse(text) if token.type == "fence"]
    names = [(token.info.split() or [""])[0].lower() for token in blocks]
    for wanted in (LANGUAGES[language].fences, ("",)):
        found = [block.content for block, name in zip(blocks, names, strict=True) if name in wanted]
        if found:
            return found[-1] if found[-1].strip() else None
    return text if not blocks and text.strip() else None


@functools.cache
def _block_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("zero").enable(["fence", "list", "blockquote"])


class CodeTests:
    """1 if the program in the response passes all test cases of its prompt, else 0.

    The cases come from `metadata["tests"]` (see `parse_cases`) or from the columns that public data sets have (see
    `evolpo.rewards.code.shapes`), the language from the options or from `metadata["language"]`. Each case runs in a
    fresh sandbox, the cases of a response one after the other, as many responses at a time as there are cores. A case
    is passed if the program ends by itself with exit code 0 and gives what is expected. The artifacts of a failed
    response say which case failed first and how. A prompt without a usable test case, a machine without a sandbox and
    a sandbox that fails are an infra_error, never a 0.

    Time is CPU time, and the time in which a program waits for nothing but itself; how busy the machine is makes no
    difference. A program that waits gives up its core to the next one.
    """

    name = "code_tests"
    scope: Scope = "sample"

    def __init__(
        self, language: str | None = None, partial: bool = False, timeout_s: float = 4.0, memory_mib: int = 512
    ) -> None:
        """Set the options. Raises ValueError if one of them makes no sense.

        Args:
            language: `python`, `javascript` or `sql` (SQLite); None: what a prompt says, else `python`.
            partial: give the share of passed cases instead of all or nothing, and run all cases.
            timeout_s: CPU seconds of a case, all processes and threads together; it may wait for as long, too.
            memory_mib: memory in MiB of a case, all processes and temporary files together.
        """
        if language is not None and language not in LANGUAGES:
            raise ValueError(f"language {language!r} is none of {', '.join(LANGUAGES)}")
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s {timeout_s} is no deadline; give seconds above 0")
        if memory_mib < MIN_MEMORY_MIB:
            raise ValueError(f"memory_mib {memory_mib} is too little to start; give {MIN_MEMORY_MIB} or more")
        self._language = language
        self._partial = partial
        wall_s = max(MIN_WALL_S, WALL_FACTOR * timeout_s)
        self._limits = Limits(cpu_s=timeout_s, idle_s=timeout_s, wall_s=wall_s, memory_mib=memory_mib)
        self.timeout_s = math.inf
        """Of a call: none. Each case has a deadline of its own, which begins with its work."""

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Judge the samples: one score each, in their order. If it is cancelled, all programs are killed."""
        cancel = threading.Event()
        try:
            runs = [_threads().submit(functools.partial(self._score, sample, cancel)) for sample in samples]
            return list(await asyncio.gather(*map(asyncio.wrap_future, runs)))
        finally:
            cancel.set()

    def _score(self, sample: Sample, cancel: threading.Event) -> Score:
        started = time.perf_counter()
        try:
            score = self._judge(sample, cancel)
        except (SandboxMissing, SandboxError, ValueError) as error:
            score = Score.infra_error(str(error))
        except Exception as error:  # noqa: BLE001 - one sample must not take the others of the batch with it
            score = Score.infra_error(describe(error))
        return replace(score, elapsed_s=time.perf_counter() - started)

    def needs(self, prompt: Prompt) -> str | None:
        """What is wrong with the test cases of a prompt; None if nothing is."""
        try:
            self._cases(prompt.text, prompt.answer, prompt.metadata)
        except ValueError as error:
            return str(error)
        return None

    def _cases(self, prompt: str, answer: Answer, metadata: Mapping[str, Any]) -> tuple[str, list[Case]]:
        """Language and test cases of a prompt. Raises ValueError if something is wrong with them."""
        own = metadata.get("language")
        name = own or self._language or "python"
        if name not in LANGUAGES:
            raise ValueError(f"metadata['language'] {name!r} is none of {', '.join(LANGUAGES)}")
        if own and self._language and own != self._language:
            raise ValueError(
                f"metadata['language'] {own!r} is not options.language {self._language!r}; drop one of them"
            )
        return name, _checked_cases(cases_of(prompt, answer, metadata), name)

    def _judge(self, sample: Sample, cancel: threading.Event) -> Score:
        name, cases = self._cases(sample.prompt, sample.answer, sample.metadata)
        program = extract_program(sample.text, name)
        if program is None:
            return Score.model_fail(f"no program in {name} found")
        check_language(name, self._limits.memory_mib)
        passed, waiting, reason = 0, 0, ""
        for index, case in enumerate(cases):
            with _Core() as core:
                result = run_case(LANGUAGES[name], program, case, self._limits, on_idle=core.release, cancel=cancel)
            fault = _fault(result, case, index)
            passed += fault is None
            waiting += result.waited
            if fault is not None:
                reason = reason or f"case {index + 1} of {len(cases)}: {fault}"
                if not self._partial or waiting == MAX_WAITING:
                    break
        value = passed / len(cases) if self._partial else float(passed == len(cases))
        return Score(value, artifacts={"error": reason} if reason else {})


def _checked_cases(cases: list[Case], language: str) -> list[Case]:
    if not cases:
        raise ValueError("there is no test case, so that every program would pass")
    for index, case in enumerate(cases):
        if not isinstance(case, LANGUAGES[language].cases):
            kinds = {"sql": "setup and rows"}.get(language, "stdin and stdout, or function, args and result")
            raise ValueError(f"metadata['tests'][{index}] is no case for {language}, which needs {kinds}")
    return cases


def _fault(result: SandboxResult, case: Case, index: int) -> str | None:
    """Why the program fails this case, None if it passes. Raises ValueError if the case itself is broken."""
    if isinstance(case, QueryCase) and result.exit_code == SETUP_FAILED:
        raise ValueError(f"metadata['tests'][{index}].setup fails: {_last_line(result)}")
    if result.kind == "timeout":
        return f"timeout after {result.limit}"
    if result.limit:
        return f"more than {result.limit}"
    if result.exit_code != 0:
        return f"exit code {result.exit_code}: {_last_line(result)}"
    return case.mismatch(result.stdout)


def _last_line(result: SandboxResult) -> str:
    lines = result.stderr[-10_000:].decode(errors="replace").strip().splitlines()
    return visible(lines[-1][:300]) if lines else "nothing on the standard error"


class _Core:
    """A place among the programs that work; a program gives it up at its end, or when it waits.

    There is one place more than cores: a sandbox that is set up or taken down waits for the kernel in between.
    """

    _free = threading.BoundedSemaphore(len(os.sched_getaffinity(0)) + 1)

    def __init__(self) -> None:
        self._held = False

    def __enter__(self) -> Self:
        self._free.acquire()
        self._held = True
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the core up, unless that has been done."""
        if self._held:
            self._held = False
            self._free.release()


class _Threads:
    """Threads that wait for sandboxes. Other than an executor's they do not hold up the end of this process."""

    def __init__(self, count: int) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Score], Callable[[], Score]]] = queue.SimpleQueue()
        for index in range(count):
            threading.Thread(target=self._serve, name=f"code-tests-{index}", daemon=True).start()

    def submit(self, call: Callable[[], Score]) -> Future[Score]:
        """Queue a call that does not raise."""
        future: Future[Score] = Future()
        self._calls.put((future, call))
        return future

    def _serve(self) -> None:
        while True:
            future, call = self._calls.get()
            if future.set_running_or_notify_cancel():
                future.set_result(call())


@functools.cache
def _threads() -> _Threads:
    """The threads of all rewards of this process together."""
    return _Threads(len(os.sched_getaffinity(0)) + WAITERS)
