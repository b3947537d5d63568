"""What the reward service counts: per reward, how many, how well and how fast."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evolpo.rewards.values import Score

WINDOW = 65_536
"""Requests of one reward, the latest ones, over which quantiles are taken: 4 MiB a reward at most."""


@dataclass(frozen=True, slots=True)
class RewardStats:
    """One reward since counting began. Times in seconds; quantiles leave out what the cache answered."""

    requests: int
    """Requests that were answered, from the cache or by work."""
    statuses: Mapping[str, int]
    """Scores by status."""
    scored_share: float
    """Share of the scores that are neither `infra_error` nor `timeout`."""
    retries: int
    """Calls beyond the first, over all requests."""
    cache_hits: int
    """Requests answered with the scores of another one, finished or running."""
    queued_max: int
    """Most requests that waited for a slot of the reward's resource when a request of this reward was admitted."""
    latency_p50_s: float
    """From submission to answer: waiting for admission and slots, work and backoff of all tries."""
    latency_p99_s: float
    queue_wait_p50_s: float
    """Waiting for admission and slots, over all tries."""
    queue_wait_p99_s: float


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    unscored: int = 0
    retries: int = 0
    cache_hits: int = 0
    queued_max: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    queue_waits: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, scores: Sequence[Score], requests: int = 1) -> None:
        self.requests += requests
        self.statuses.update(score.status for score in scores)
        self.unscored += sum(score.unscored for score in scores)

    def stats(self) -> RewardStats:
        latencies, queue_waits = sorted(self.latencies), sorted(self.queue_waits)
        return RewardStats(
            requests=self.requests,
            statuses=dict(self.statuses),
            scored_share=1.0 - self.unscored / max(self.statuses.total(), 1),
            retries=self.retries,
            cache_hits=self.cache_hits,
            queued_max=self.queued_max,
            latency_p50_s=quantile(latencies, 0.5),
            latency_p99_s=quantile(latencies, 0.99),
            queue_wait_p50_s=quantile(queue_waits, 0.5),
            queue_wait_p99_s=quantile(queue_waits, 0.99),
        )


class StatsRecorder:
    """Counts by name of the reward; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_name: dict[str, _Counts] = {}

    def admitted(self, name: str, queued: int) -> None:
        """A request was admitted and is one of `queued` that wait for a slot."""
        with self._lock:
            counts = self._by_name.setdefault(name, _Counts())
            counts.queued_max = max(counts.queued_max, queued)

    def answered(
        self,
        name: str,
        scores: Sequence[Score],
        latency_s: float,
        queue_wait_s: float,
        retries: int,
        requests: int = 1,
    ) -> None:
        """One request, or several that were worked on together, was answered by work."""
        with self._lock:
            counts = self._by_name.setdefault(name, _Counts())
            counts.add(scores, requests)
            counts.retries += retries
            counts.latencies.append(latency_s)
            counts.queue_waits.append(queue_wait_s)

    def shared(self, name: str, scores: Sequence[Score]) -> None:
        """A request was answered with the scores of another one."""
        with self._lock:
            counts = self._by_name.setdefault(name, _Counts())
            counts.add(scores)
            counts.cache_hits += 1

    def snapshot(self, reset: bool = False) -> dict[str, RewardStats]:
        """The figures of this moment, by name of the reward; with `reset`, counting begins anew."""
        with self._lock:
            by_name = self._by_name
            if reset:
                self._by_name = {}
            return {name: counts.stats() for name, counts in by_name.items()}


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the ordered values does not exceed; 0 if there are none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
