"""What a fleet has asked its engines for, token by token: nothing that an engine has said is lost when it dies.

Pure: no clock, no engine, no I/O. A response that was broken off goes on elsewhere from its prompt and the tokens so
far. Every hand-over is an attempt of its own, and what is reported of an older attempt is dropped: an engine that was
given up, and that wakes later, cannot add to a response that another one goes on with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from evolpo.rl.data import FinishReason, Prompt, Span
from evolpo.rollout.engine import Sampling


@dataclass(frozen=True, slots=True)
class Request:
    """A response, or the rest of one, as an engine is asked for it."""

    id: str
    """Names the group, the response in it, and the attempt."""
    token_ids: tuple[int, ...]
    """The prompt, and what was sampled before."""
    max_tokens: int
    """Of what is still to be sampled."""
    sampling: Sampling
    seed: int | None
    """None: greedy."""


@dataclass(frozen=True, slots=True)
class Report:
    """Tokens that an engine has sampled for a request since its last report, all under one version of the policy."""

    id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    version: int
    finish_reason: FinishReason | None
    """None: there is more to come."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A finished response, before anybody reads it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    spans: tuple[Span, ...]


@dataclass(slots=True)
class _Entry:
    """A response on its way."""

    seed: int | None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    attempt: int = 0
    engine: int | None = None
    """Who works on it; None: nobody."""

    def add(self, report: Report) -> None:
        self.token_ids += report.token_ids
        self.logprobs += report.logprobs
        self.finish_reason = report.finish_reason
        count = len(report.token_ids)
        if self.spans and self.spans[-1].version == report.version:
            self.spans[-1] = Span(report.version, self.spans[-1].tokens + count)
        elif count:
            self.spans.append(Span(report.version, count))


@dataclass(slots=True)
class _Asked:
    """A group on its way."""

    prompt: Prompt
    sampling: Sampling
    entries: list[_Entry]

    @property
    def idle(self) -> list[int]:
        """Responses that are not finished and that nobody works on."""
        return [i for i, one in enumerate(self.entries) if one.engine is None and one.finish_reason is None]


class Journal:
    """Groups on their way by number, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._groups: dict[int, _Asked] = {}
        self._next = 0
        self.dropped = 0
        """Tokens that came too late: of attempts that had been given to others, or of groups that nobody wants."""

    def ask(self, prompt: Prompt, sampling: Sampling, seed: int | None) -> int:
        """Take a group up, for `assign` to give to an engine.

        Args:
            prompt: what is answered.
            sampling: how, and how often.
            seed: of the first response; the others count on from it, as in vLLM. None: greedy.

        Returns:
            The group's number.
        """
        seeds = [None if seed is None else seed + place for place in range(sampling.responses_per_prompt)]
        self._groups[self._next] = _Asked(prompt, sampling, [_Entry(one) for one in seeds])
        self._next += 1
        return self._next - 1

    def waiting(self) -> list[int]:
        """Groups of which nobody works on some unfinished response, the oldest first."""
        return [number for number, group in self._groups.items() if group.idle]

    def load(self, engine: int) -> int:
        """Unfinished responses that an engine works on."""
        return sum(one.engine == engine for group in self._groups.values() for one in group.entries)

    def assign(self, number: int, engine: int) -> list[Request]:
        """Give all of a group that nobody works on to an engine.

        A continuation is seeded by the response's seed and its length so far: its own seed would repeat its draws.
        """
        group = self._groups[number]
        requests = []
        for place in group.idle:
            entry = group.entries[place]
            entry.engine = engine
            sofar = len(entry.token_ids)
            seed = entry.seed
            if seed is not None and sofar:
                seed = int(np.random.SeedSequence((seed, sofar)).generate_state(1, np.uint64)[0] >> np.uint64(1))
            ids = (*group.prompt.token_ids, *entry.token_ids)
            name = f"{number}.{place}#{entry.attempt}"
            requests.append(Request(name, ids, group.sampling.max_response_tokens - sofar, group.sampling, seed))
        return requests

    def record(self, reports: Iterable[Report]) -> list[int]:
        """Add what an engine has sampled; returns the groups that are now finished."""
        finished: list[int] = []
        for report in reports:
            number, place, attempt = _parts(report.id)
            group = self._groups.get(number)
            entry = group.entries[place] if group is not None else None
            if group is None or entry is None or entry.attempt != attempt or entry.finish_reason is not None:
                self.dropped += len(report.token_ids)
                continue
            entry.add(report)
            if entry.finish_reason is not None:
                entry.engine = None
                if all(one.finish_reason is not None for one in group.entries):
                    finished.append(number)
        return finished

    def lost(self, engine: int) -> tuple[int, int]:
        """An engine is given up: what it worked on waits for another.

        Returns:
            How many responses these are, and how many tokens they have.
        """
        given_up = [one for group in self._groups.values() for one in group.entries if one.engine == engine]
        for entry in given_up:
            entry.engine = None
            entry.attempt += 1
        return len(given_up), sum(len(entry.token_ids) for entry in given_up)

    def most_attempts(self) -> int:
        """The most engines that were given up with the same unfinished response in hand."""
        return max((one.attempt for group in self._groups.values() for one in group.entries), default=0)

    def take(self, number: int) -> tuple[Prompt, list[Sampled]]:
        """A finished group, which leaves the journal."""
        group = self._groups.pop(number)
        sampled = []
        for one in group.entries:
            assert one.finish_reason is not None, "taken before it was finished"
            sampled.append(Sampled(tuple(one.token_ids), tuple(one.logprobs), one.finish_reason, tuple(one.spans)))
        return group.prompt, sampled

    def cancel(self, numbers: Sequence[int]) -> dict[int, list[str]]:
        """Forget groups; returns by engine the requests that it need not go on with."""
        stopped: dict[int, list[str]] = {}
        for number in numbers:
            group = self._groups.pop(number, None)
            for place, entry in enumerate(group.entries if group is not None else ()):
                if entry.engine is not None:
                    stopped.setdefault(entry.engine, []).append(f"{number}.{place}#{entry.attempt}")
        return stopped


def _parts(name: str) -> tuple[int, int, int]:
    """Group, place and attempt of a request's name."""
    response, _, attempt = name.partition("#")
    group, _, place = response.partition(".")
    return int(group), int(place), int(attempt)
