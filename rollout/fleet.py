"""A fleet of engines as one: it gives work out, resumes what a dead engine began, and brings new weights to all."""

from __future__ import annotations

import atexit
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evolpo import InputError
from evolpo.rl.data import Group, Prompt, Response
from evolpo.rollout.ends import response_text
from evolpo.rollout.engine import FleetConfig, Sampling, check_tokens, prompt_seeds
from evolpo.rollout.engine_actor import (
    Cluster,
    Description,
    EngineSettings,
    Payload,
    RemoteEngine,
    fetch,
    files_of,
    installed,
)
from evolpo.rollout.journal import Journal, Report, Sampled
from evolpo.rollout.weights import Contents, packed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Done = Callable[[int, Group], None]
"""Gets the number and the responses of a group that is finished, in a thread of the fleet."""
WAIT_S = 0.5
"""How long an engine waits for something to report before it gives a sign of life."""
LOOK_S = 0.1
"""How often whoever waits looks whether it is still worth it."""
START_S = 900.0
"""An engine that has not started by then does not."""
ATTEMPTS = 3
"""Engines that die one after the other in the same place without having sampled anything, until the fleet gives up."""


POISON = 8
"""Engines that die with the same response in hand, until it is taken for the cause."""


@dataclass
class Place:
    """One engine of the fleet, and the next one in its place."""

    engine: RemoteEngine | None = None
    key: int = -1
    """Of the engine in the journal; a new one for every engine."""
    described: Description | None = None
    live: bool = False
    """Whether it has the current weights and may be given work."""
    heard: float = 0.0
    """When it last gave a sign of life or of work, by the monotonic clock."""
    sampled: bool = False
    """Whether it has sampled anything."""
    barren: int = 0
    """Engines in this place that have died one after the other without a token."""


@dataclass
class FleetCounts:
    """What has happened to a fleet so far."""

    deaths: int = 0
    """Engines that were given up."""
    resumed: int = 0
    """Responses that went on elsewhere."""
    kept_tokens: int = 0
    """Tokens that these had by then."""
    noticed_s: list[float] = field(default_factory=list)
    """For each: seconds since its last sign of life."""
    sampled_tokens: int = 0
    busy_s: float = 0.0
    """Seconds in which engines worked, all together."""


class Fleet:
    """Engines in processes of their own. It is a `RolloutEngine` too, for whoever waits for what was asked for."""

    def __init__(
        self,
        settings: EngineSettings,
        config: FleetConfig,
        tokenizer: PreTrainedTokenizerBase,
        threads: int,
        gpus: float,
        note: Callable[[str], None],
    ) -> None:
        """Start the cluster and the engines, and wait for the first of them.

        Args:
            settings: what an engine loads; its weights count as version 0.
            config: how many, where, and what to do with one that is silent.
            tokenizer: of the model, for the fleet alone: it is used from other threads.
            threads: of each engine.
            gpus: of each engine.
            note: gets a line when an engine dies or joins.

        Raises:
            InputError: the cluster does not answer or has no room, or machines differ.
        """
        self._settings, self._config, self._tokenizer, self._note = settings, config, tokenizer, note
        self._threads, self._gpus = threads, gpus
        self._changed = threading.Condition(threading.RLock())
        self._journal = Journal()
        self._done: dict[int, tuple[Done, int]] = {}
        """By number of the group: who gets it, and the version when it was asked for."""
        self._payload: Payload | None = None
        self._fatal: Exception | None = None
        self._publishing = self._closing = False
        self._reading = threading.Lock()  # tokenizers are not safe in several threads at once
        self._special = settings.config.special_tokens
        self._keys = 0
        self.counts = FleetCounts()
        self.version = 0
        self.takes_adapters = bool(settings.adapter_rank)
        self.asked: Callable[[], bool] = lambda: False  # nobody shares it
        store = 2 * settings.weight_bytes + (256 << 20)
        self.cluster = Cluster(config.address, config.engines, store, math.ceil(config.engines * gpus))
        self.places = [Place() for _ in range(config.engines)]
        self._keepers = [threading.Thread(target=self._keep, args=(one,), daemon=True) for one in self.places]
        atexit.register(self.close)
        try:
            self._check_room()
            for keeper in self._keepers:
                keeper.start()
            while not any(place.live for place in self.places):
                self.check()
                time.sleep(LOOK_S)
        except BaseException:
            self.close()
            raise

    # What others ask of it

    def submit(
        self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int | None], done: Done
    ) -> list[int]:
        """Ask for a group for each prompt, and go on.

        Args:
            prompts: with tokens that the model has.
            sampling: how.
            seeds: of the first response to each; see `prompt_seeds`.
            done: gets each group as it is finished.

        Returns:
            Numbers of the groups.
        """
        with self._changed:
            check_tokens(prompts, self._described.vocabulary, self._tokenizer)
            numbers = [self._journal.ask(prompt, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
            self._done |= dict.fromkeys(numbers, (done, self.version))
            self._dispatch()
        return numbers

    def cancel(self, numbers: Sequence[int]) -> None:
        """Forget groups."""
        with self._changed:
            stopped = self._journal.cancel(numbers)
            for number in numbers:
                self._done.pop(number, None)
            for place in self.places:
                if place.engine is not None and (names := stopped.get(place.key)):
                    place.engine.cancel(names)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, done: Callable[[Group], None] | None = None
    ) -> list[Group]:
        """See `RolloutEngine.generate`; the same responses as of one engine, however many there are."""
        finished: queue.SimpleQueue[tuple[int, Group]] = queue.SimpleQueue()
        seeds = prompt_seeds(seed, sampling, len(prompts))
        numbers = self.submit(prompts, sampling, seeds, lambda number, group: finished.put((number, group)))
        groups: dict[int, Group] = {}
        try:
            while len(groups) < len(numbers):
                self.check()
                try:
                    number, group = finished.get(timeout=LOOK_S)
                except queue.Empty:
                    continue
                groups[number] = group
                if done is not None:
                    done(group)
        except BaseException:
            self.cancel(numbers)
            raise
        return [groups[number] for number in numbers]

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Bring all weights to all engines; what they are sampling goes on between two of their steps."""
        self._publish(weights, None, version)

    def update_adapter(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], version: int) -> None:
        """Bring an adapter to all engines."""
        self._publish(tensors.items(), settings, version)

    def routing(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `RolloutEngine.routing`; nothing while the first engine samples."""
        with self._changed:
            engine = next((place.engine for place in self.places if place.live), None)
        try:
            return engine.routing(sequences) if engine is not None else []
        except Exception:  # noqa: BLE001 - who listens to the engine notices its death
            return []

    def sleep(self) -> bool:
        """Nothing: it has devices of its own."""
        return False

    def check(self) -> None:
        """Raise what has ended the fleet, if something has.

        Raises:
            InputError: the machines differ, or an engine refuses what it was given.
            RuntimeError: engines die as soon as they are started.
        """
        if self._fatal is not None:
            raise self._fatal

    def close(self) -> None:
        """End all engines and the cluster, if it was started here; what is closed stays so."""
        atexit.unregister(self.close)
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
            engines = [place.engine for place in self.places if place.engine is not None]
        for engine in engines:
            engine.kill()
        for keeper in self._keepers:
            if keeper.is_alive():
                keeper.join(timeout=10.0)
        self.cluster.close()

    # Engines: one thread each

    def _keep(self, place: Place) -> None:
        """Keep an engine in a place until the fleet is closed."""
        while not self._closing and self._fatal is None:
            place.heard = time.monotonic()
            try:
                self._start(place)
                self._listen(place)
            except InputError as error:
                self._give_up(error)
            except Exception as error:  # noqa: BLE001 - whatever happens to an engine, another takes its place
                if not self._closing:
                    self._bury(place, error)

    def _start(self, place: Place) -> None:
        """Start an engine, hold it against this machine, and bring it the newest weights; then it is given work."""
        with self._changed:
            self._keys += 1
            place.key, place.sampled = self._keys, False
            place.engine = engine = self.cluster.engine(self._settings, self._threads, self._gpus)
        described = engine.start(START_S)
        check_same(described, self._settings.model)
        place.described = described
        loaded: Payload | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._publishing or self._closing)
                payload = self._payload
                if payload is None or payload is loaded or self._closing:
                    place.live, place.heard = True, time.monotonic()
                    self._dispatch()
                    self._changed.notify_all()
                    break
            fetch(engine.load(payload), START_S)
            loaded = payload
        if place.key > len(self.places):
            self._note(f"fleet: another engine has taken its place on {described.host}")

    def _listen(self, place: Place) -> None:
        """Take what the engine samples, and see that it lives and works, until it does not."""
        engine, limit = place.engine, self._config.stall_s
        assert engine is not None
        beats, moved, busy_s = -1, time.monotonic(), 0.0
        while not self._closing:
            drained = engine.drain(min(WAIT_S, limit / 2), limit)
            place.heard = now = time.monotonic()
            if drained.idle or drained.beats != beats:
                beats, moved = drained.beats, now
            elif now - moved > limit:
                place.heard = moved
                raise TimeoutError(f"no step for {now - moved:.1f} s")
            with self._changed:
                self.counts.busy_s += drained.busy_s - busy_s
            busy_s = drained.busy_s
            if drained.reports:
                self._record(place, drained.reports)

    def _record(self, place: Place, reports: Sequence[Report]) -> None:
        """Write down what was sampled, hand over what is finished, and give out what waits."""
        with self._changed:
            place.sampled, place.barren = True, 0
            self.counts.sampled_tokens += sum(len(one.token_ids) for one in reports)
            finished = self._journal.record(reports)
            handed = [(number, *self._done.pop(number), *self._journal.take(number)) for number in finished]
            self._dispatch()
        for number, done, born, prompt, sampled in handed:
            group = self._group(prompt, sampled, born)
            try:
                done(number, group)
            except Exception as error:  # noqa: BLE001 - it is not the engine's
                self._give_up(error)

    def _group(self, prompt: Prompt, sampled: Sequence[Sampled], born: int) -> Group:
        ends = self._described.ends
        with self._reading:
            texts = [response_text(one.token_ids, ends, self._tokenizer, self._special) for one in sampled]
        responses = tuple(
            Response(one.token_ids, text, one.logprobs, one.finish_reason, one.spans)
            for one, text in zip(sampled, texts, strict=True)
        )
        return Group(prompt, responses, born=born)

    def _dispatch(self) -> None:
        """Give waiting groups to the engines with the least to do, as far as they have seats."""
        loads = {place.key: self._journal.load(place.key) for place in self.places if place.live}
        by_key = {place.key: place for place in self.places if place.live}
        for number in self._journal.waiting() if loads else ():
            key = min(loads, key=lambda one: loads[one])
            place = by_key[key]
            assert place.engine is not None
            assert place.described is not None
            if loads[key] >= place.described.seats:
                return
            requests = self._journal.assign(number, key)
            loads[key] += len(requests)
            place.engine.submit(requests)

    def _bury(self, place: Place, error: Exception) -> None:
        """Give an engine up: its work goes to the others, and another engine will take its place."""
        with self._changed:
            engine, place.engine, place.live = place.engine, None, False
            silent = time.monotonic() - place.heard
            resumed, kept = self._journal.lost(place.key)
            self.counts.deaths += 1
            self.counts.resumed += resumed
            self.counts.kept_tokens += kept
            self.counts.noticed_s.append(silent)
            place.barren += not place.sampled
            if self._journal.most_attempts() >= POISON:
                self._give_up(RuntimeError(f"{POISON} engines died sampling the same response: {said(error)}"))
            if place.barren >= ATTEMPTS:
                why = f"{ATTEMPTS} engines died one after the other without a token: {said(error)}"
                self._give_up(RuntimeError(f"rollout.fleet.engines: {why}"))
            self._dispatch()
            self._changed.notify_all()
        if engine is not None:
            engine.kill()
        self._note(
            f"fleet: an engine is given up ({said(error)}); {resumed} responses go on elsewhere"
            f" with the {kept} tokens that they have"
        )

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            self._fatal = error
            self._changed.notify_all()

    def _publish(self, tensors: Iterable[tuple[str, Tensor]], settings: Mapping[str, Any] | None, version: int) -> None:
        """Lay weights out and wait until every engine that is there has them, or is given up."""
        with self._changed:
            self._payload, self._publishing = None, True  # the memory of the last ones
        contents: list[Contents] = []
        buckets: list[Any] = []
        for table, bucket in packed(tensors):
            contents.append(table)
            buckets.append(self.cluster.put(bucket))
        with self._changed:
            self._payload = payload = Payload(version, settings, contents, buckets)
            self._publishing, self.version = False, version
            loading = {
                place.engine.load(payload): (place, place.key)
                for place in self.places
                if place.live and place.engine is not None
            }
            self._changed.notify_all()
        while loading:
            self.check()
            for reference in self.cluster.ended(list(loading), LOOK_S):
                del loading[reference]
                try:
                    fetch(reference, None)
                except InputError as error:
                    self._give_up(error)
                except Exception:  # noqa: BLE001 - who listens to the engine notices its death
                    pass
            loading = {ref: (place, key) for ref, (place, key) in loading.items() if place.live and place.key == key}
        self.check()

    @property
    def _described(self) -> Description:
        found = next((place.described for place in self.places if place.described is not None), None)
        assert found is not None, "the fleet has started"
        return found

    def _check_room(self) -> None:
        processes, cards = self.cluster.room()
        count = self._config.engines
        if processes < count:
            raise InputError(f"rollout.fleet.engines: {count} are more than the cluster's {processes} CPUs; give fewer")
        if cards < count * self._gpus:
            raise InputError(
                f"rollout.fleet.engines: {count} with rollout.fleet.gpus_per_engine={self._gpus:g} are more than the"
                f" cluster's {cards:g} GPUs; give fewer"
            )


def check_same(there: Description, model: str) -> None:
    """Raise InputError unless an engine's machine has the versions and the model that this one has."""
    for name, version in installed().items():
        if there.packages.get(name) != version:
            raise InputError(
                f"rollout.fleet.address: {there.host} has {name} {there.packages.get(name, 'not at all')}, this machine"
                f" {version}; install the same on both"
            )
    if there.model != files_of(model):
        raise InputError(f"model.path: {there.host} has other files in {model} than this machine; copy them there")


def said(error: Exception) -> str:
    """The first line of what an exception says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
