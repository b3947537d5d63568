"""vLLM stepping in a thread of its own: requests come and go between two steps, and so do new weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evolpo.rl.data import Prompt
from evolpo.rollout.engine import Sampling
from evolpo.rollout.journal import Report, Request
from evolpo.rollout.vllm_engine import VllmEngine, finish_reason, sampled_logprobs, sampling_params

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Drained:
    """What an engine has to say since it was last asked."""

    reports: list[Report]
    beats: int
    """Steps and updates so far: an engine with work whose count stands still hangs."""
    idle: bool
    """Whether it has nothing to do."""
    busy_s: float
    """Seconds spent in steps so far."""


class EngineLoop:
    """Owns an engine and the thread that steps it; its methods may be called from any other thread."""

    def __init__(self, make: Callable[[], VllmEngine]) -> None:
        """Start the thread and wait for its engine.

        Args:
            make: loads one with `in_flight`, in the thread: streams and threads of kernels belong to a thread.
        """
        self._changed = threading.Condition()
        self._work: list[Callable[[], None]] = []
        self._reports: list[Report] = []
        self._beats, self._busy_s = 0, 0.0
        self._idle = True
        self._error: BaseException | None = None
        made: Future[VllmEngine] = Future()
        threading.Thread(target=self._run, args=(make, made), name="engine", daemon=True).start()
        self.engine = made.result()

    def submit(self, requests: Sequence[Request]) -> None:
        """Add requests before the next step."""
        self._between_steps(lambda: self._add(requests))

    def cancel(self, names: Sequence[str]) -> None:
        """Drop requests before the next step; those that are not there are passed over."""
        self._between_steps(lambda: self.engine.llm.llm_engine.abort_request(list(names), internal=False))

    def update(self, change: Callable[[VllmEngine], None]) -> float:
        """Change the weights between two steps, and wait for it; running requests go on.

        Returns:
            Seconds for which sampling stood still.
        """
        done: Future[float] = Future()

        def work() -> None:
            began = time.perf_counter()
            try:
                change(self.engine)
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                done.set_exception(error)
            else:
                done.set_result(time.perf_counter() - began)

        self._between_steps(work)
        return done.result()

    def drain(self, seconds: float) -> Drained:
        """What was sampled since the last call, as soon as there is something; waits for it at most so long.

        Raises:
            RuntimeError: the engine's thread has ended by an exception, which is its cause.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._reports or self._error is not None, seconds)
            if self._error is not None:
                raise RuntimeError(f"the engine failed: {self._error}") from self._error
            reports, self._reports = self._reports, []
            return Drained(merged(reports), self._beats, self._idle, self._busy_s)

    def _between_steps(self, work: Callable[[], None]) -> None:
        with self._changed:
            self._work.append(work)
            self._changed.notify_all()

    def _add(self, requests: Sequence[Request]) -> None:
        for one in requests:
            params = sampling_params(one.sampling, one.seed, self.engine.ends, max_tokens=one.max_tokens)
            self.engine.add_request(one.id, one.token_ids, params)

    def _run(self, make: Callable[[], VllmEngine], made: Future[VllmEngine]) -> None:
        try:
            self.engine = make()
            self.engine.generate([Prompt("", "", (0,))], Sampling(1, 1, temperature=0.0), 0)  # its first step is slow
        except BaseException as error:  # noqa: BLE001 - whoever waits for the engine gets it
            made.set_exception(error)
            return
        made.set_result(self.engine)
        try:
            while True:
                self._turn()
        except BaseException as error:  # noqa: BLE001 - whoever drains gets it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _turn(self) -> None:
        """Do what was asked for, then one step."""
        core = self.engine.llm.llm_engine
        with self._changed:
            self._idle = not self._work and not core.has_unfinished_requests()
            self._changed.wait_for(lambda: self._work or not self._idle)
            work, self._work = self._work, []
            self._idle = False
        with self.engine.stream.entered():
            for one in work:
                one()
            began = time.perf_counter()
            outputs = core.step() if core.has_unfinished_requests() else []
        reports = [self._report(output) for output in outputs]
        with self._changed:
            self._beats += 1
            self._busy_s += time.perf_counter() - began
            self._reports += reports
            if reports:
                self._changed.notify_all()

    def _report(self, output: Any) -> Report:
        [completion] = output.outputs
        return Report(
            output.request_id,
            tuple(completion.token_ids),
            sampled_logprobs(completion),
            self.engine.version,
            finish_reason(completion) if output.finished else None,
        )


def merged(reports: Iterable[Report]) -> list[Report]:
    """The same with one report a request and version, in the order of the first."""
    found: dict[tuple[str, int], Report] = {}
    for one in reports:
        before = found.get((one.id, one.version))
        found[one.id, one.version] = (
            one
            if before is None
            else replace(one, token_ids=before.token_ids + one.token_ids, logprobs=before.logprobs + one.logprobs)
        )
    return list(found.values())


def take_weights(
    tensors: Iterable[tuple[str, Tensor]], settings: Mapping[str, Any] | None, version: int
) -> Callable[[VllmEngine], None]:
    """A change for `EngineLoop.update`: all weights, or with settings an adapter."""

    def change(engine: VllmEngine) -> None:
        if settings is None:
            engine.update_weights(tensors, version)
        else:
            engine.update_adapter(dict(tensors), settings, version)

    return change
