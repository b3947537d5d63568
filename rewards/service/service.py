"""The reward service: scores are asked for, and the asker goes on (Ling 2.0 report, section 4.4).

An event loop in a thread of its own dispatches requests to rewards, so that a training loop overlaps them with its next
work. Every reward belongs to a resource; a resource works on `concurrency` requests at a time and holds `queue` of
them, and who submits more waits: nothing is dropped, and a slow resource holds up no other. A request is answered once,
with values or with the status of its last try.

Memory: of each resource at most `queue` requests with their samples, one asyncio task each; at most `cache_mb` of
pickled scores; at most 4 MiB of latencies a reward. Scores belong to whoever asked for them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import random
import sys
import threading
import time
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from evolpo import InputError
from evolpo.rewards.base import FunctionReward, Reward, Sample, Score, finished_within
from evolpo.rewards.service.cache import ScoreCache
from evolpo.rewards.service.config import ResourceConfig, ServiceConfig
from evolpo.rewards.service.stats import RewardStats, StatsRecorder
from evolpo.rewards.service.waiting import result_of
from evolpo.rewards.service.workers import describe, hold_pool, release_pool
from evolpo.rewards.unscored import RewardError
from evolpo.rewards.values import score_of

T = TypeVar("T")

CLOSED = "the reward service was closed before the score was there"
GRACE_S = 0.5
"""Seconds after which a loop that a plugin blocks is left behind; its thread ends with the program."""
BEAT_S = 0.5
"""Pause between two signs of life of the event loop."""
BLOCKED_S = 10.0
"""Seconds after which a reward that blocks the event loop is named on stderr."""
PIECE = 64
"""Samples in one request to a plain function."""


class _Resource:
    def __init__(self, config: ResourceConfig) -> None:
        self.room = asyncio.Semaphore(config.queue)
        self.slots = asyncio.Semaphore(config.concurrency)
        self.waiting = 0
        """Admitted requests that wait for a slot."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """Where the scores of some samples will stand: a part of what a task gives."""

    task: asyncio.Future[list[Score]]
    part: slice


class RewardService:
    """Dispatches requests to rewards in the background.

    `submit` and `run` are for the thread of the asker, `score` for coroutines that `run` runs. A reward's value must
    depend on its options and its samples alone, as equal requests share one computation.
    """

    def __init__(self, config: ServiceConfig | None = None, keep_workers: bool = False) -> None:
        """Start the event loop; with `keep_workers`, worker processes stay when the service is closed."""
        self._config = config or ServiceConfig()
        self._resources = {name: _Resource(limits) for name, limits in self._config.resources.items()}
        self._cache = ScoreCache(int(self._config.cache_mb * 2**20))
        self._running: dict[bytes, _Answer] = {}
        self._tasks: set[asyncio.Task[list[Score]]] = set()
        self._stats = StatsRecorder()
        self._random = random.Random(self._config.seed)
        self._asked: set[Future[Any]] = set()
        self._closed = self._cancelled = False
        self._keep_workers = keep_workers
        if not keep_workers:
            hold_pool()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._stop = asyncio.Event()
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._serve, name="reward-service", daemon=True)
        self._thread.start()
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="reward-watch", daemon=True)
        self._watcher.start()

    def submit(self, reward: Reward, samples: Sequence[Sample]) -> Future[list[Score]]:
        """Ask for one call of a reward: one sample of a sample reward, the responses to one prompt of a group reward.

        Waits while the resource's queue is full. The future gives one score a sample, in their order.

        Raises:
            InputError: the reward asks for a resource that the configuration does not have.
            RuntimeError: the service is closed.
        """
        assert threading.current_thread() is not self._thread, "inside the service's loop: await score() instead"
        self._resource_of(reward)
        admitted = threading.Event()

        async def request() -> list[Score]:
            [answer] = await self._admit(reward, [samples])
            admitted.set()
            return await self._answered(answer, len(samples))

        future = self.run(request())
        future.add_done_callback(lambda _: admitted.set())
        admitted.wait()
        return future

    def gather(self, futures: Iterable[Future[list[Score]]]) -> list[list[Score]]:
        """Wait for the answers of several requests, in the order of the futures."""
        return [result_of(future) for future in futures]

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine, which may await `score`, in the service's loop. Raises RuntimeError if that is closed."""
        if self._closed:
            coroutine.close()
            raise RuntimeError("the reward service is closed")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._asked.add(future)
        future.add_done_callback(self._asked.discard)
        return future

    async def score(self, reward: Reward, samples: Sequence[Sample]) -> list[Score]:
        """Judge the samples: one score each, in their order. Waits where the resource's queue is full.

        Decorated coroutines of one sample get a request a sample, plain functions one for up to 64; any other reward
        gets all samples in one call, so that it can batch them, and so that a group stays a group. Raises InputError
        as `submit` does.
        """
        if not samples:
            return []
        single = isinstance(reward, FunctionReward) and reward.scope == "sample"
        calls = [[sample] for sample in samples] if single else [list(samples)]
        size = 1 if resource_name(reward) == "network" else PIECE
        answers: list[_Answer] = []
        for start in range(0, len(calls), size):
            answers += await self._admit(reward, calls[start : start + size])
        return [
            score
            for answer, call in zip(answers, calls, strict=True)
            for score in await self._answered(answer, len(call))
        ]

    def stats(self, reset: bool = False) -> dict[str, RewardStats]:
        """Figures since the service began, by name of the reward; with `reset`, the next ones begin here."""
        return self._stats.snapshot(reset)

    def close(self, drain: bool = True) -> None:
        """End the loop and, unless another service uses them, the worker processes.

        Requests that are not answered yet are finished first; without `drain` they are answered with infra_error at
        once, whatever still runs.
        """
        if self._closed:
            return
        self._closed = True
        self._ended.set()
        with contextlib.suppress(RuntimeError):  # The loop may end by itself in between.
            if not drain:
                self._loop.call_soon_threadsafe(self._cancel)
            concurrent.futures.wait(list(self._asked), timeout=None if drain else GRACE_S)
            self._loop.call_soon_threadsafe(self._stop.set)
        if drain:
            self._thread.join()
        if not self._keep_workers:
            release_pool()  # Without `drain`, what runs in them ends now.
        self._thread.join(GRACE_S)
        self._watcher.join()

    def _serve(self) -> None:
        with self._runner:
            self._runner.run(self._alive())

    async def _alive(self) -> None:
        stopped = asyncio.create_task(self._stop.wait())
        while not stopped.done():
            self._beat = time.monotonic()
            await asyncio.wait({stopped}, timeout=BEAT_S)

    def _watch(self) -> None:
        """Say which reward blocks the event loop, and give up on it at the deadline: it cannot be stopped."""
        told = False
        while not self._ended.wait(BEAT_S):
            blocked_s = time.monotonic() - self._beat - BEAT_S
            # A loop that runs no task waits for one: the whole process was stopped, or got no processor time.
            idle = asyncio.current_task(self._loop) is None
            if idle or blocked_s < min(BLOCKED_S, self._config.timeout_s):
                told = False
                continue
            error = f"{self._running_place()} has blocked the event loop of the rewards for {blocked_s:.0f} s"
            if not told:
                sys.stderr.write(f"evolpo: {error}; nothing else is judged meanwhile\n")
                told = True
            if blocked_s >= self._config.timeout_s:
                for future in list(self._asked):
                    with contextlib.suppress(Exception):  # It may have been answered in between.
                        future.set_exception(RewardError(f"{error}; use await, or a decorated function"))
                return

    def _running_place(self) -> str:
        """The reward that the event loop's thread is in, and where."""
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._thread.ident or 0)
        place = f" ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})" if frame else ""
        return f"{task.get_name() if task else 'a reward'}{place}"

    def _cancel(self) -> None:
        self._cancelled = True
        for task in self._tasks:
            task.cancel()

    def _resource_of(self, reward: Reward) -> _Resource:
        name = resource_name(reward)
        if name not in self._resources:
            raise InputError(
                f"rewards.service.resources: {reward.name} needs {name!r}, which is none of "
                f"{', '.join(self._resources)}; add it"
            )
        return self._resources[name]

    async def _admit(self, reward: Reward, calls: Sequence[Sequence[Sample]]) -> list[_Answer]:
        """Wait for room, then return where the answers will be: in the cache, an equal request, or a new task."""
        submitted = time.perf_counter()
        resource = self._resource_of(reward)
        await resource.room.acquire()
        if self._cancelled:
            resource.room.release()
            return [_done([Score.infra_error(CLOSED)] * len(call)) for call in calls]
        samples: list[Sample] = []
        fresh: list[tuple[bytes | None, slice]] = []
        places: list[_Answer | slice] = []
        begun: dict[bytes, slice] = {}
        for call in calls:
            key = self._cache.key(reward, call)
            known = self._known(reward, key) or (begun.get(key) if key is not None else None)
            if known is None:
                known = slice(len(samples), len(samples) + len(call))
                samples += call
                fresh.append((key, known))
                if key is not None:
                    begun[key] = known
            places.append(known)
        if not fresh:
            resource.room.release()
            return [place for place in places if isinstance(place, _Answer)]
        task = asyncio.create_task(self._computed(resource, reward, samples, fresh, submitted))
        self._tasks.add(task)
        for key, part in begun.items():
            self._running[key] = _Answer(task, part)

        def finished(task: asyncio.Task[list[Score]]) -> None:
            resource.room.release()
            self._tasks.discard(task)
            for key in begun:
                del self._running[key]

        task.add_done_callback(finished)
        answers = [place if isinstance(place, _Answer) else _Answer(task, place) for place in places]
        own = {part.start for _, part in fresh}
        for answer in answers:
            if answer.task is task and answer.part.start in own:
                own.discard(answer.part.start)
            elif answer.task is task:
                self._count_shared(reward, answer)
        return answers

    def _known(self, reward: Reward, key: bytes | None) -> _Answer | None:
        """The answer of an equal request that runs, or of the cache."""
        if key is None:
            return None
        if key in self._running:
            self._count_shared(reward, self._running[key])
            return self._running[key]
        scores = self._cache.get(key)
        if scores is None:
            return None
        self._stats.shared(reward.name, scores)
        return _done(scores)

    def _count_shared(self, reward: Reward, answer: _Answer) -> None:
        def counted(task: asyncio.Future[list[Score]]) -> None:
            if not task.cancelled():
                self._stats.shared(reward.name, task.result()[answer.part])

        answer.task.add_done_callback(counted)

    async def _answered(self, answer: _Answer, count: int) -> list[Score]:
        """The answer; an asker who is cancelled takes neither the work nor other askers with it."""
        try:
            return (await asyncio.shield(answer.task))[answer.part]
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            return [Score.infra_error(CLOSED)] * count

    async def _computed(
        self,
        resource: _Resource,
        reward: Reward,
        samples: Sequence[Sample],
        requests: Sequence[tuple[bytes | None, slice]],
        submitted: float,
    ) -> list[Score]:
        """Try, and try again what failed; a pause between two tries takes no slot."""
        scores: list[Score] = []
        queue_wait_s = 0.0
        ready = submitted
        retries = failed = 0
        for attempt in range(self._config.retries + 1):
            if attempt:
                retries += failed
                await asyncio.sleep(self._pause_s(attempt))
                ready = time.perf_counter()
            resource.waiting += 1
            self._stats.admitted(reward.name, resource.waiting)
            try:
                await resource.slots.acquire()
            finally:
                resource.waiting -= 1
            queue_wait_s += time.perf_counter() - ready
            try:
                scores = await self._tried(reward, samples, scores)
            finally:
                resource.slots.release()
            failed = sum(any(score.unscored for score in scores[part]) for _, part in requests)
            if not failed:
                break
        latency_s = time.perf_counter() - submitted
        self._stats.answered(reward.name, scores, latency_s, queue_wait_s, retries, len(requests))
        for key, part in requests:
            if key is not None:
                self._cache.put(key, scores[part])
        return scores

    def _pause_s(self, attempt: int) -> float:
        """Seconds before try `attempt` (0 is the first): exponential backoff with full jitter.

        M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        return self._random.uniform(0.0, min(self._config.backoff_max_s, self._config.backoff_s * 2 ** (attempt - 1)))

    async def _tried(self, reward: Reward, samples: Sequence[Sample], before: list[Score]) -> list[Score]:
        """Scores after one more try of what is unscored; a group is judged as a whole."""
        if not before or reward.scope == "group":
            return await self._call(reward, samples)
        failed = [index for index, score in enumerate(before) if score.unscored]
        again = await self._call(reward, [samples[index] for index in failed])
        scores = list(before)
        for index, score in zip(failed, again, strict=True):
            scores[index] = score
        return scores

    async def _call(self, reward: Reward, samples: Sequence[Sample]) -> list[Score]:
        """One call of a plugin; whatever it does, one score a sample comes back."""
        if isinstance(reward, FunctionReward):
            try:
                return await reward.score(samples)  # It keeps its own deadlines, which begin with the work.
            except Exception as error:  # noqa: BLE001 - options that cannot be pickled, above all
                return [Score.infra_error(describe(error))] * len(samples)
        timeout_s: float = getattr(reward, "timeout_s", None) or self._config.timeout_s
        outcome = await finished_within(lambda: reward.score(samples), timeout_s, reward.name)
        elapsed_s = outcome.elapsed_s / max(len(samples), 1)
        if outcome.kind == "timeout":
            text = f"{outcome.error} from {reward.name}"
            return [Score(None, "timeout", artifacts={"error": text}, elapsed_s=elapsed_s)] * len(samples)
        if outcome.kind != "returned":
            return [Score.infra_error(outcome.error, elapsed_s)] * len(samples)
        scores = list(outcome.value) if isinstance(outcome.value, Sequence) else [outcome.value]
        if wrong := [one for one in scores if not isinstance(one, Score)]:
            found = f"{type(wrong[0]).__name__} is no Score"
        elif len(scores) != len(samples):
            found = f"{len(samples)} samples give {len(scores)} scores"
        else:
            return [score_of(score) for score in scores]
        text = f"{reward.name}.score() must return one Score a sample: {found}"
        return [Score.infra_error(text, elapsed_s)] * len(samples)


def _done(scores: list[Score]) -> _Answer:
    future: asyncio.Future[list[Score]] = asyncio.get_running_loop().create_future()
    future.set_result(scores)
    return _Answer(future, slice(0, len(scores)))


def resource_name(reward: Reward) -> str:
    """The resource a reward uses: its attribute `resource`, else what its kind of function needs."""
    named: str | None = getattr(reward, "resource", None)
    if named:
        return named
    if not isinstance(reward, FunctionReward) or reward.coroutine:
        return "network"
    return "cpu" if reward.target is None else "process"
