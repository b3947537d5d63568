"""The load of `evolpo bench rewards`: requests with planned faults, the rewards that answer them, a judge over HTTP.

Every reward returns the request's id as its value and notes the id in a file at the moment it answers, so that answers
that were lost, doubled or mixed up show. This module is light: worker processes import it each time one is replaced.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evolpo.rewards.answers.extract import boxed_contents, extract_answer
from evolpo.rewards.base import Sample, Scope, Score, sample_reward

if TYPE_CHECKING:
    import aiohttp

Kind = Literal["format", "answer", "judge"]
Fault = Literal["", "hang", "crash", "refused"]

KIND_SHARES: dict[Kind, float] = {"format": 0.45, "judge": 0.4, "answer": 0.15}
"""`format`: plain functions in process; `answer`: isolated functions in workers; `judge`: coroutines that wait."""
WORKER_HANGS = 0.1
"""Share of the hangs that meet an isolated function: each costs a worker its deadline and its life."""
DELAYS_S = (0.01, 0.1)
"""A judge's answer takes a uniform random time between these."""


def request_kinds(count: int, generator: random.Random) -> list[Kind]:
    """The kind of each request, in the given shares, mixed."""
    kinds: list[Kind] = [kind for kind, share in KIND_SHARES.items() for _ in range(round(share * count))]
    kinds = (kinds + ["format"] * count)[:count]
    generator.shuffle(kinds)
    return kinds


def planned_faults(
    kinds: Sequence[Kind], hang: int, crash: int, refused: int, never: int, generator: random.Random
) -> dict[int, tuple[Fault, bool]]:
    """Request -> its fault, and whether it comes back at every try (`never` of them, of all faults in turn).

    Hangs meet judges and workers, crashes workers, refused connections judges; no request gets two faults.
    """
    free: dict[Kind, list[int]] = {kind: [] for kind in KIND_SHARES}
    for index, kind in enumerate(kinds):
        free[kind].append(index)
    for indices in free.values():
        generator.shuffle(indices)
    worker_hangs = round(WORKER_HANGS * hang)
    first_try: list[tuple[Fault, Kind, int]] = [
        ("hang", "answer", worker_hangs),
        ("hang", "judge", hang - worker_hangs),
        ("crash", "answer", crash),
        ("refused", "judge", refused),
    ]
    faults: dict[int, tuple[Fault, bool]] = {}
    for fault, kind, count in first_try:
        faults |= {free[kind].pop(): (fault, False) for _ in range(count)}
    for number in range(never):
        fault, kind, _ = first_try[number % len(first_try)]
        faults[free[kind].pop()] = (fault, True)
    return faults


def make_request(index: int, fault: tuple[Fault, bool], generator: random.Random) -> Sample:
    r"""The sample of a request: its answer is its number, in a box."""
    metadata = {"id": index, "fault": fault[0], "always": fault[1], "delay_s": generator.uniform(*DELAYS_S)}
    text = rf"Counting them all, the answer is \boxed{{{index}}}."
    return Sample(f"Which number has request {index}?", text, str(index), "easy", metadata, 16, False)


def fault_now(sample: Sample, folder: str) -> Fault:
    """The fault the request meets at this try; a file remembers, even of a worker that dies, that it was tried."""
    fault: Fault = sample.metadata["fault"]
    if not fault or sample.metadata["always"]:
        return fault
    try:
        os.close(os.open(f"{folder}/tried-{sample.metadata['id']}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return ""
    return fault


def note_answer(folder: str, index: int) -> float:
    """Note that a request is being answered, and return its value: a short append is atomic, whoever else writes."""
    descriptor = os.open(f"{folder}/answered", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, f"{index}\n".encode())
    os.close(descriptor)
    return float(index)


def noted_answers(folder: str) -> Counter[int]:
    """How often each request was answered, counted by those who answered."""
    file = Path(folder, "answered")
    return Counter(int(line) for line in file.read_text().split()) if file.exists() else Counter()


@sample_reward
def boxed(sample: Sample, *, folder: str) -> float:
    """A format check in process: one box, with a number in it."""
    [content] = boxed_contents(sample.text)
    return note_answer(folder, int(content))


@sample_reward(isolate=True)
def checked(sample: Sample, *, folder: str) -> float | Score:
    """An answer check in a worker, which may hang or take the worker with it."""
    fault = fault_now(sample, folder)
    while fault == "hang":
        time.sleep(1.0)
    if fault == "crash":
        if sample.metadata["id"] % 2:
            os._exit(1)
        os.kill(os.getpid(), signal.SIGKILL)
    answer = extract_answer(sample.text)
    if answer is None or answer != sample.answer:
        return Score.model_fail("wrong answer")
    return note_answer(folder, int(answer))


class Judge:
    """A judge that is asked over HTTP; at a planned fault nobody listens, or nobody ever answers."""

    name = "judge"
    scope: Scope = "sample"

    def __init__(self, port: int, refused_port: int, folder: str, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._ports = {True: refused_port, False: port}
        self._folder = folder
        self._session: aiohttp.ClientSession | None = None

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Ask about the samples, one after the other."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return [await self._asked(self._session, sample) for sample in samples]

    async def _asked(self, session: aiohttp.ClientSession, sample: Sample) -> Score:
        fault = fault_now(sample, self._folder)
        question = {"id": sample.metadata["id"], "delay_s": sample.metadata["delay_s"], "hang": fault == "hang"}
        url = f"http://127.0.0.1:{self._ports[fault == 'refused']}/"
        async with session.post(url, json=question) as response:
            response.raise_for_status()
            return Score(float((await response.json())["value"]))

    async def close(self) -> None:
        """Close the connections, in the loop that opened them."""
        if self._session is not None:
            await self._session.close()


@contextmanager
def judge_ports(folder: str) -> Iterator[tuple[int, int]]:
    """Ports of a judge in a process of its own, and of nobody: bound, so that no one takes it, but not listened on."""
    program = f"from evolpo.recipes.bench.rewards_load import serve_judge; serve_judge({folder!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is the parent's business.
    )
    with process, socket.socket() as silent:
        assert process.stdin is not None
        assert process.stdout is not None
        silent.bind(("127.0.0.1", 0))
        try:
            yield int(process.stdout.readline()), silent.getsockname()[1]
        finally:
            process.stdin.close()


def serve_judge(folder: str) -> None:
    """Print the port and serve until standard input ends, as it does with the parent."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        asked: dict[str, Any] = await request.json()
        await asyncio.sleep(3600.0 if asked["hang"] else asked["delay_s"])
        return web.json_response({"value": note_answer(folder, asked["id"])})

    async def serve() -> None:
        application = web.Application()
        application.router.add_post("/", answer)
        # A question whose asker has gone away is dropped, not answered.
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()

    asyncio.run(serve())
