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
import inspect
import random
import threading
import time
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from evolpo import InputError
from evolpo.rewards.base import FunctionReward, Reward, Sample, Score
from evolpo.rewards.service.cache import ScoreCache
from evolpo.rewards.service.config import ResourceConfig, ServiceConfig
from evolpo.rewards.service.stats import RewardStats, StatsRecorder
from evolpo.rewards.service.workers import close_shared_pool, describe

T = TypeVar("T")

CLOSED = "the reward service was closed before the score was there"


class _Resource:
    def __init__(self, config: ResourceConfig) -> None:
        self.room = asyncio.Semaphore(config.queue)
        self.slots = asyncio.Semaphore(config.concurrency)
        self.waiting = 0
        """Admitted requests that wait for a slot."""


class RewardService:
    """Dispatches requests to rewards in the background.

    `submit` and `run` are for the thread of the asker, `score` for coroutines that `run` runs. A reward's value must
    depend on its options and its samples alone, as equal requests share one computation.
    """

    def __init__(self, config: ServiceConfig | None = None) -> None:
        self._config = config or ServiceConfig()
        self._resources = {name: _Resource(limits) for name, limits in self._config.resources.items()}
        self._cache = ScoreCache(int(self._config.cache_mb * 2**20))
        self._running: dict[bytes, asyncio.Task[list[Score]]] = {}
        self._tasks: set[asyncio.Task[list[Score]]] = set()
        self._stats = StatsRecorder()
        self._random = random.Random(self._config.seed)
        self._asked: set[Future[Any]] = set()
        self._closed = self._cancelled = False
        # Plain functions run here: one that takes a second must not make the others miss their deadlines.
        self._cpu_thread = ThreadPoolExecutor(1, thread_name_prefix="reward-cpu")
        # With a factory, a runner leaves the current loop of this thread alone.
        self._cpu_runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="reward-service", daemon=True)
        self._thread.start()

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
            answer = await self._admit(reward, samples)
            admitted.set()
            return await self._answered(answer, len(samples))

        future = self.run(request())
        future.add_done_callback(lambda _: admitted.set())
        admitted.wait()
        return future

    def gather(self, futures: Iterable[Future[list[Score]]]) -> list[list[Score]]:
        """Wait for the answers of several requests, in the order of the futures."""
        return [future.result() for future in futures]

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

        A decorated sample reward gets a request a sample; any other reward gets all samples in one call, so that it
        can batch them, and so that a group stays a group. Raises InputError as `submit` does.
        """
        if not samples:
            return []
        single = isinstance(reward, FunctionReward) and reward.scope == "sample"
        calls = [[sample] for sample in samples] if single else [list(samples)]
        answers = [(await self._admit(reward, call), len(call)) for call in calls]
        return [score for answer, count in answers for score in await self._answered(answer, count)]

    def stats(self, reset: bool = False) -> dict[str, RewardStats]:
        """Figures since the service began, by name of the reward; with `reset`, the next ones begin here."""
        return self._stats.snapshot(reset)

    def close(self, drain: bool = True) -> None:
        """End the loop, its threads and the worker processes.

        Requests that are not answered yet are finished first; without `drain` they are answered with infra_error at
        once, and only calls in worker processes are waited for, at most until their deadline.
        """
        self._closed = True
        if not self._thread.is_alive():
            return
        with contextlib.suppress(RuntimeError):  # The loop may end by itself in between.
            if not drain:
                self._loop.call_soon_threadsafe(self._cancel)
            concurrent.futures.wait(list(self._asked))
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._cpu_thread.submit(self._cpu_runner.close)
        self._cpu_thread.shutdown()
        close_shared_pool()

    def _serve(self) -> None:
        with self._runner:
            self._runner.run(self._stop.wait())

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

    async def _admit(self, reward: Reward, samples: Sequence[Sample]) -> asyncio.Future[list[Score]]:
        """Wait for room, then return the future answer: of the cache, of an equal request, or of a new task."""
        submitted = time.perf_counter()
        resource = self._resource_of(reward)
        key = self._cache.key(reward, samples)
        await resource.room.acquire()
        answer = self._known(reward, key)
        if answer is not None or self._cancelled:
            resource.room.release()
            return answer or _done([Score.infra_error(CLOSED)] * len(samples))
        task = asyncio.create_task(self._computed(resource, reward, samples, submitted, key))
        self._tasks.add(task)
        if key is not None:
            self._running[key] = task

        def finished(task: asyncio.Task[list[Score]]) -> None:
            resource.room.release()
            self._tasks.discard(task)
            if key is not None:
                del self._running[key]

        task.add_done_callback(finished)
        return task

    def _known(self, reward: Reward, key: bytes | None) -> asyncio.Future[list[Score]] | None:
        if key is None:
            return None
        if key in self._running:
            running = self._running[key]
            running.add_done_callback(
                lambda task: None if task.cancelled() else self._stats.shared(reward.name, task.result())
            )
            return running
        scores = self._cache.get(key)
        if scores is None:
            return None
        self._stats.shared(reward.name, scores)
        return _done(scores)

    async def _answered(self, answer: asyncio.Future[list[Score]], count: int) -> list[Score]:
        """The answer; an asker who is cancelled takes neither the work nor other askers with it."""
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            return [Score.infra_error(CLOSED)] * count

    async def _computed(
        self, resource: _Resource, reward: Reward, samples: Sequence[Sample], submitted: float, key: bytes | None
    ) -> list[Score]:
        """Try, and try again what failed; a pause between two tries takes no slot."""
        scores: list[Score] = []
        queue_wait_s = 0.0
        ready = submitted
        for attempt in range(self._config.retries + 1):
            if attempt:
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
            if not any(score.unscored for score in scores):
                break
        self._stats.answered(reward.name, scores, time.perf_counter() - submitted, queue_wait_s, attempt)
        if key is not None:
            self._cache.put(key, scores)
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
        # Decorated functions keep their own deadlines, which begin with the work.
        own = isinstance(reward, FunctionReward)
        timeout_s = None if own else getattr(reward, "timeout_s", None) or self._config.timeout_s
        started = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                if resource_name(reward) == "cpu":
                    scores = await self._loop.run_in_executor(self._cpu_thread, self._call_plain, reward, samples)
                else:
                    scores = list(await reward.score(samples))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; it becomes a status
            elapsed_s = (time.perf_counter() - started) / max(len(samples), 1)
            if deadline.expired():
                text = f"no result within {timeout_s:g} s"
                return [Score(None, "timeout", artifacts={"error": text}, elapsed_s=elapsed_s)] * len(samples)
            return [Score.infra_error(describe(error), elapsed_s)] * len(samples)
        if len(scores) != len(samples) or not all(isinstance(score, Score) for score in scores):
            return [Score.infra_error(f"{reward.name}.score() must return one Score a sample")] * len(samples)
        return scores

    def _call_plain(self, reward: Reward, samples: Sequence[Sample]) -> list[Score]:
        return list(self._cpu_runner.run(_awaited(reward, samples)))


async def _awaited(reward: Reward, samples: Sequence[Sample]) -> list[Score]:
    return await reward.score(samples)


def _done(scores: list[Score]) -> asyncio.Future[list[Score]]:
    future: asyncio.Future[list[Score]] = asyncio.get_running_loop().create_future()
    future.set_result(scores)
    return future


def resource_name(reward: Reward) -> str:
    """The resource a reward uses: its attribute `resource`, else what its kind of function needs."""
    named: str | None = getattr(reward, "resource", None)
    if named:
        return named
    if not isinstance(reward, FunctionReward):
        return "network"
    if reward.isolate:
        return "process"
    return "network" if inspect.iscoroutinefunction(reward.function) else "cpu"
