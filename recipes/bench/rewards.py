"""`evolpo bench rewards`: the reward service under a load of mixed requests, a planned share of which fails.

All requests are queued at once. What fails at the first try only must be scored in the end; what never succeeds must
be reported as what it is.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.recipes.bench.rewards_load import (
    Fault,
    Judge,
    Kind,
    boxed,
    checked,
    judge_ports,
    make_request,
    noted_answers,
    planned_faults,
    request_kinds,
)
from evolpo.recipes.runs.checks import check_positive
from evolpo.rewards.base import Reward, Sample, Score
from evolpo.rewards.service.config import ServiceConfig, default_resources
from evolpo.rewards.service.service import RewardService
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress

GB = 1e9
PARTS = 20
"""Steps of the progress display."""
OVERLAP_STEPS = 8
OVERLAP_SAMPLES = 8


@dataclass
class BenchRewardsConfig:
    """`evolpo bench rewards`: the reward service with slow, hanging, crashing and unreachable rewards."""

    requests: int = 40_000
    """Requests queued at once: 45% format checks, 40% questions to a judge, 15% answers checked in workers."""
    hang: float = 0.01
    """Share that hangs at its first try, nine judges to one worker."""
    crash: float = 0.01
    """Share that kills its worker at the first try."""
    refused: float = 0.03
    """Share that meets a refused connection at the first try."""
    never: float = 0.0005
    """Share that meets one of these faults at every try."""
    judge_timeout_s: float = 5.0
    """Deadline of a question in seconds."""
    worker_timeout_s: float = 2.0
    """Deadline of a check in a worker in seconds."""
    retries: int = 3
    """Further tries of a request."""
    limit_s: float = 1800.0
    """Seconds after which requests without an answer count as lost."""
    overlap: bool = True
    """Also measure training steps with rewards beside them and after them; about 12 s."""
    seed: int = 0
    """Seed of kinds, faults, delays and pauses."""
    output: str = "outputs/bench/rewards.json"
    """File of the results."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_positive(self, "requests")
        for name in ("hang", "crash", "refused", "never"):
            if not 0 <= getattr(self, name) <= 0.05:
                raise InputError(f"{name}: {getattr(self, name)} is no small share; give 0 to 0.05")
        for name in ("judge_timeout_s", "worker_timeout_s", "limit_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}: {getattr(self, name)} is no deadline; give seconds above 0")


def main(config: BenchRewardsConfig) -> None:
    """Run `evolpo bench rewards` from the command line: the figures in a few lines."""
    report = bench_rewards(config)
    fate = f"{report['scored_share']:.2%} scored, {report['lost']} lost, {report['duplicates']} scored twice"
    print(f"{report['requests']} requests in {report['seconds']:.0f} s: {fate}, peak {report['peak_gb']:.2f} GB")
    print(config.output)


def bench_rewards(config: BenchRewardsConfig) -> dict[str, Any]:
    """Run the load, write and return the figures.

    Returns:
        `requests`; `scored_share`: with a value, over all; `lost`: without any answer; `duplicates`: answered more than
        once, counted by those who answered; `wrong`: answered with another request's value; `peak_gb`: most resident
        memory of this process and all its children together, in GB (1e9 bytes; shared pages count in each), `start_gb`
        of it before the first request; `seconds` and `requests_per_s`; `planned`: requests by fault;
        `unscored`: by kind, fault and status; `unscored_unplanned`: of them, those that should have been scored in the
        end; `by_kind`: counts, latencies and waits in seconds; `overlap`: seconds a training step; `setting`.
    """
    generator = random.Random(config.seed)
    kinds = request_kinds(config.requests, generator)
    hang, crash, refused, never = (
        math.ceil(share * config.requests) for share in (config.hang, config.crash, config.refused, config.never)
    )
    faults = planned_faults(kinds, hang, crash, refused, never, generator)
    samples = [make_request(index, faults.get(index, ("", False)), generator) for index in range(config.requests)]
    with tempfile.TemporaryDirectory() as folder, judge_ports(folder) as (port, refused_port):
        judge = Judge(port, refused_port, folder, config.judge_timeout_s)
        rewards: dict[Kind, Reward] = {
            "format": boxed.configured(config.worker_timeout_s, {"folder": folder}),
            "answer": checked.configured(config.worker_timeout_s, {"folder": folder}),
            "judge": judge,
        }
        resources = default_resources()
        for resource in resources.values():
            resource.queue = config.requests
        service_config = ServiceConfig(resources=resources, retries=config.retries, seed=config.seed)
        with closing(RewardService(service_config)) as service, _peak_memory() as memory:
            start_gb = memory()
            began = time.perf_counter()
            scores = _answers(service, rewards, kinds, samples, config.limit_s)
            seconds = time.perf_counter() - began
            stats, peak_gb = service.stats(), memory()
            overlap = measure_overlap(service, judge, config.requests) if config.overlap else None
            service.run(judge.close()).result()
        noted = {index: count for index, count in noted_answers(folder).items() if index < config.requests}
    report = figures(kinds, faults, scores, noted) | {
        "peak_gb": peak_gb,
        "start_gb": start_gb,
        "seconds": seconds,
        "requests_per_s": len(scores) / seconds,
        "by_kind": {kind: asdict(stats[reward.name]) for kind, reward in rewards.items() if reward.name in stats},
        "overlap": overlap,
        "setting": asdict(config) | {"service": asdict(service_config)},
    }
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    return report


def figures(
    kinds: Sequence[Kind],
    faults: Mapping[int, tuple[Fault, bool]],
    scores: Mapping[int, Score],
    noted: Mapping[int, int],
) -> dict[str, Any]:
    """What became of the requests, by what was planned, what came back and what the answering side counted."""
    requests = len(kinds)
    unscored = {index: score for index, score in scores.items() if score.unscored}
    planned = Counter(f"{fault} {'always' if always else 'first'}" for fault, always in faults.values())
    statuses = Counter(
        f"{kinds[index]} {faults.get(index, ('no fault', False))[0]} {score.status}"
        for index, score in unscored.items()
    )
    return {
        "requests": requests,
        "scored_share": (len(scores) - len(unscored)) / requests,
        "lost": requests - len(scores),
        "duplicates": sum(count > 1 for count in noted.values()),
        "wrong": sum(score.value != index for index, score in scores.items() if not score.unscored),
        "planned": dict(planned),
        "unscored": dict(statuses),
        "unscored_unplanned": sum(not faults.get(index, ("", False))[1] for index in unscored),
    }


def _answers(
    service: RewardService,
    rewards: Mapping[Kind, Reward],
    kinds: Sequence[Kind],
    samples: Sequence[Sample],
    limit_s: float,
) -> dict[int, Score]:
    """Queue all requests in one go of the service's loop; the score of each that is answered in time."""
    scores: dict[int, Score] = {}

    async def ask(index: int) -> None:
        [score] = await service.score(rewards[kinds[index]], [samples[index]])
        assert index not in scores
        scores[index] = score

    async def ask_all() -> None:
        tasks = [asyncio.create_task(ask(index)) for index in range(len(samples))]
        done, _ = await asyncio.wait(tasks, timeout=limit_s)
        for task in done:
            task.result()

    future = service.run(ask_all())
    _show(future, len(samples), lambda: len(scores))
    future.result()
    return dict(scores)


def _show(future: Future[None], requests: int, answered: Callable[[], int]) -> None:
    """Show each twentieth of the requests that is answered, until the future is done."""
    shown = 0
    with Progress(PARTS, LoggerConfig()) as progress:
        while not future.done():
            time.sleep(0.2)
            part = PARTS * answered() // requests
            if part > shown:
                progress.step(part, {})
                shown = part


def measure_overlap(service: RewardService, judge: Reward, first: int) -> dict[str, float]:
    """Seconds of a step of 0.5 s on the device and 0.4 s at the judge, one after the other and side by side.

    A sleep stands for the device's work. Side by side, the rewards of the next step's responses are worked out while
    the device trains on this step's: those responses are one update older than without overlap.
    """
    train_s, judge_s = 0.5, 0.4

    def ask(step: int) -> list[Future[list[Score]]]:
        metadata = {"fault": "", "always": False, "delay_s": judge_s}
        start = first + step * OVERLAP_SAMPLES
        return [
            service.submit(judge, [Sample("", "", None, "", metadata | {"id": start + number}, 1, False)])
            for number in range(OVERLAP_SAMPLES)
        ]

    began = time.perf_counter()
    for step in range(OVERLAP_STEPS):
        service.gather(ask(step))
        time.sleep(train_s)
    apart_s = (time.perf_counter() - began) / OVERLAP_STEPS

    pending = ask(OVERLAP_STEPS)
    began = time.perf_counter()
    for step in range(OVERLAP_STEPS):
        service.gather(pending)
        pending = ask(OVERLAP_STEPS + step + 1)
        time.sleep(train_s)
    overlapped_s = (time.perf_counter() - began) / OVERLAP_STEPS
    service.gather(pending)
    return {"train_s": train_s, "judge_s": judge_s, "apart_step_s": apart_s, "overlapped_step_s": overlapped_s}


@contextmanager
def _peak_memory() -> Iterator[Callable[[], float]]:
    """A function that gives the most resident memory so far, in GB, of this process and its children."""
    import psutil

    peak = 0.0
    stop = threading.Event()
    own = psutil.Process()

    def look() -> float:
        nonlocal peak
        total = 0
        for process in [own, *own.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, total / GB)
        return peak

    def watch() -> None:
        while not stop.wait(0.25):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield look
    finally:
        stop.set()
        thread.join()
