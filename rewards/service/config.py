"""Limits of the reward service: resources, tries, pauses, deadline, cache."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from evolpo import InputError
from evolpo.rewards.service.workers import worker_count


@dataclass
class ResourceConfig:
    """Something that rewards compete for."""

    concurrency: int = 64
    """Requests that are worked on at the same time."""
    queue: int = 4096
    """Requests held at the same time: waiting, worked on, and between two tries. Submitting more waits."""


def default_resources() -> dict[str, ResourceConfig]:
    """The resources that rewards use unless they have an attribute `resource` that names another.

    `process`: plain functions in worker processes. `cpu`: those that only this process has, one after the other in a
    thread. `network`: coroutines and rewards written by hand. `browser`: for rewards that name it.
    """
    return {
        "cpu": ResourceConfig(concurrency=16),
        # Twice the workers: one that has finished finds its next call waiting in the pool. Clocks start later.
        "process": ResourceConfig(concurrency=2 * worker_count()),
        "network": ResourceConfig(concurrency=64),
        "browser": ResourceConfig(concurrency=2),
    }


@dataclass
class ServiceConfig:
    """How rewards are dispatched. Raises InputError where a field makes no sense."""

    resources: dict[str, ResourceConfig] = field(default_factory=default_resources)
    """Limits by resource."""
    retries: int = 2
    """How many more times a request is tried after an error, a crash or a timeout."""
    backoff_s: float = 0.25
    """Longest pause in seconds before the second try; it doubles with every further one."""
    backoff_max_s: float = 10.0
    """Longest pause in seconds before any try."""
    timeout_s: float = 600.0
    """Most seconds of one call to a reward written by hand that has no `timeout_s` of its own."""
    cache_mb: float = 64.0
    """MiB of scores to remember by content; 0 works everything out anew, duplicates in flight too."""
    seed: int = 0
    """Seed of the pauses."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, resource in self.resources.items():
            for limit in ("concurrency", "queue"):
                if getattr(resource, limit) < 1:
                    raise InputError(
                        f"rewards.service.resources.{name}.{limit}: {getattr(resource, limit)} would let nothing "
                        "through; give 1 or more"
                    )
        for name in ("retries", "backoff_s", "backoff_max_s", "cache_mb"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"rewards.service.{name}: {getattr(self, name)} is out of range; give 0 or more")
        if not 0 < self.timeout_s < math.inf:
            raise InputError(f"rewards.service.timeout_s: {self.timeout_s} is no deadline; give seconds above 0")
