import asyncio
import sys
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from contextlib import closing

import psutil
import pytest
import service_plugins
from hypothesis import given, settings
from hypothesis import strategies as st

from evolpo import InputError
from evolpo.rewards.base import Score, group_reward, sample_reward
from evolpo.rewards.service.cache import ScoreCache
from evolpo.rewards.service.config import ResourceConfig, ServiceConfig, default_resources
from evolpo.rewards.service.service import RewardService
from evolpo.rewards.service.stats import StatsRecorder, quantile
from evolpo.rewards.testing import make_sample
from evolpo.rewards.unscored import RewardError

WAIT_S = 120


def service_with(network=None, **fields):
    resources = default_resources() | ({"network": ResourceConfig(*network)} if network else {})
    return RewardService(ServiceConfig(resources=resources, **({"backoff_s": 0.01} | fields)))


@pytest.fixture
def service():
    with closing(service_with()) as running:
        yield running


class Gated:
    """A judge that answers nobody until it is opened; it notes who asked."""

    name = "gated"
    scope = "sample"

    def __init__(self):
        self.asked = []
        self.gate = asyncio.Event()

    async def score(self, samples):
        self.asked += [sample.text for sample in samples]
        await self.gate.wait()
        return [Score(float(sample.text)) for sample in samples]

    def open(self, service):
        async def opened():
            self.gate.set()

        service.run(opened()).result(WAIT_S)


def numbered(index, **fields):
    return [make_sample(text=str(index), **fields)]


def in_time(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def by_plan(plans, timeout_s=0.2):
    """A coroutine that does at each try what the plan of its sample says, and how often it was called for each."""
    calls = Counter()

    @sample_reward(timeout_s=timeout_s)
    async def planned(sample):
        index = int(sample.text)
        step = plans[index][min(calls[index], len(plans[index]) - 1)]
        calls[index] += 1
        if step == "hang":
            await asyncio.sleep(3600)
        if step == "raise":
            raise ConnectionError("refused")
        return {"ok": float(index), "nan": float("nan"), "fail": Score.model_fail("bad")}[step]

    return planned, calls


# --- admission ---


def test_submit_waits_while_the_queue_is_full_and_nothing_is_dropped():
    with closing(service_with(network=(1, 2))) as service:
        judge, futures = Gated(), []
        thread = threading.Thread(target=lambda: futures.extend(service.submit(judge, numbered(i)) for i in range(4)))
        thread.start()
        assert in_time(lambda: judge.asked == ["0"])
        thread.join(0.5)
        assert thread.is_alive()
        assert len(service._tasks) == 2
        # A full queue holds up no other resource.
        plain = sample_reward(lambda sample: 7.0)
        assert service.submit(plain, numbered(0)).result(WAIT_S)[0].value == 7.0
        judge.open(service)
        thread.join(WAIT_S)
        assert [scores[0].value for scores in service.gather(futures)] == [0.0, 1.0, 2.0, 3.0]


def test_no_more_requests_are_held_than_the_queue_takes():
    held, working = [], []

    @sample_reward
    async def watched(sample):
        held.append(len(service._tasks))
        working.append(1)
        await asyncio.sleep(0)
        working.pop()
        return float(len(working) < 3)

    with closing(service_with(network=(3, 8))) as service:
        scores = service.run(service.score(watched, [numbered(i)[0] for i in range(300)])).result(WAIT_S)
        assert [score.value for score in scores] == [1.0] * 300
        assert max(held) == 8
        assert service.stats()["watched"].queued_max <= 8


def test_the_asker_goes_on_while_rewards_are_worked_out(service):
    judge = Gated()
    future = service.submit(judge, numbered(5))
    assert in_time(lambda: judge.asked == ["5"])
    assert not future.done()
    judge.open(service)
    assert future.result(WAIT_S)[0].value == 5.0


# --- deadlines ---


def test_deadline_leaves_out_the_queue():
    @sample_reward(timeout_s=3.0)
    async def slow(sample):
        await asyncio.sleep(0.3)
        return 1.0

    with closing(service_with(network=(1, 100), retries=0)) as service:
        scores = service.run(service.score(slow, [numbered(i)[0] for i in range(12)])).result(WAIT_S)
        assert [score.status for score in scores] == ["ok"] * 12
        assert all(0.29 <= score.elapsed_s < 3.0 for score in scores)
        stats = service.stats()["slow"]
    assert stats.queue_wait_p99_s >= 11 * 0.29
    assert stats.latency_p99_s >= 12 * 0.29
    assert stats.queued_max == 11 or stats.queued_max == 12  # The first may have its slot by then.


def test_slow_plain_function_makes_no_coroutine_late(service):
    @sample_reward
    def plain(sample):
        time.sleep(2.5)
        return 1.0

    @sample_reward(timeout_s=1.5)
    async def judge(sample):
        for _ in range(10):
            await asyncio.sleep(0.01)
        return 2.0

    slow = service.submit(plain, numbered(0))
    assert service.submit(judge, numbered(0)).result(WAIT_S)[0].value == 2.0
    assert not slow.done()
    assert service.stats()["judge"].retries == 0
    assert slow.result(WAIT_S)[0].value == 1.0


# --- retries ---


def test_failed_tries_are_repeated(service):
    reward, calls = by_plan({1: ["raise", "hang", "ok"], 2: ["ok"], 3: ["nan", "fail"]})
    scores = service.run(service.score(reward, [numbered(i)[0] for i in (1, 2, 3)])).result(WAIT_S)
    assert [(score.status, score.value) for score in scores] == [("ok", 1.0), ("ok", 2.0), ("model_fail", 0.0)]
    assert calls == {1: 3, 2: 1, 3: 2}
    stats = service.stats()["planned"]
    assert (stats.requests, stats.retries, stats.scored_share) == (3, 3, 1.0)
    assert stats.statuses == {"ok": 2, "model_fail": 1}


class Away:
    name = "away"
    scope = "sample"

    async def score(self, samples):
        raise ConnectionError("judge is away")


class Deaf(Away):
    name = "deaf"
    timeout_s = 0.1

    async def score(self, samples):
        await asyncio.sleep(3600)


class Short(Away):
    async def score(self, samples):
        return []


@sample_reward
def quits(sample):
    sys.exit(3)


@group_reward
def too_few(samples):
    return []


@pytest.mark.parametrize(
    ("reward", "text", "status", "error"),
    [
        (by_plan({1: ["raise"]})[0], "1", "infra_error", "ConnectionError: refused"),
        (by_plan({1: ["hang"]})[0], "1", "timeout", "no result within 0.2 s"),
        (by_plan({1: ["nan"]})[0], "1", "infra_error", "nan"),
        (Away(), "1", "infra_error", "ConnectionError: judge is away"),
        (Deaf(), "1", "timeout", "no result within 0.1 s"),
        (Short(), "1", "infra_error", "one Score a sample"),
        (quits, "1", "infra_error", "SystemExit: 3"),
        (too_few, "1", "infra_error", "0 results"),
        (service_plugins.in_worker.configured(30.0, {}), "exit", "infra_error", "the worker process died: exit code 3"),
        (service_plugins.in_worker.configured(0.3, {}), "hang", "timeout", "no result within 0.3 s"),
    ],
)
def test_what_never_succeeds_has_the_status_of_its_last_try(service, reward, text, status, error):
    for _ in range(2):  # A failure is not remembered: the second time it is tried three times again.
        [score] = service.submit(reward, [make_sample(text=text)]).result(WAIT_S)
        assert (score.value, score.status) == (None, status)
        assert error in score.error
    stats = service.stats()[reward.name]
    assert (stats.requests, stats.retries, stats.cache_hits, stats.scored_share) == (2, 4, 0, 0.0)
    assert stats.statuses == {status: 2}


def test_pauses_double_up_to_their_limit_and_follow_the_seed():
    with closing(service_with(backoff_s=1.0, backoff_max_s=5.0, seed=3)) as service:
        pauses = [[service._pause_s(attempt) for attempt in (1, 2, 3, 4, 9)] for _ in range(200)]
    with closing(service_with(backoff_s=1.0, backoff_max_s=5.0, seed=3)) as again:
        assert [again._pause_s(attempt) for attempt in (1, 2, 3, 4, 9)] == pauses[0]
    highest = [max(column) for column in zip(*pauses, strict=True)]
    assert highest == pytest.approx([1.0, 2.0, 4.0, 5.0, 5.0], rel=0.1)
    assert all(most <= limit for most, limit in zip(highest, [1.0, 2.0, 4.0, 5.0, 5.0], strict=True))


class Batched:
    """Gets all samples in one call; those called `late` fail at the first one."""

    name = "batched"

    def __init__(self, scope):
        self.scope = scope
        self.calls = []

    async def score(self, samples):
        self.calls.append([sample.text for sample in samples])
        failed = "late" if len(self.calls) == 1 else None
        return [Score.infra_error("late") if sample.text == failed else Score(1.0) for sample in samples]


@pytest.mark.parametrize(
    ("scope", "calls"),
    [("sample", [["a", "late", "b"], ["late"]]), ("group", [["a", "late", "b"], ["a", "late", "b"]])],
)
def test_only_failed_samples_are_tried_again_but_groups_stay_whole(service, scope, calls):
    reward = Batched(scope)
    samples = [make_sample(text=text) for text in ("a", "late", "b")]
    assert service.run(service.score(reward, [])).result(WAIT_S) == []
    scores = service.run(service.score(reward, samples)).result(WAIT_S)
    assert [score.value for score in scores] == [1.0] * 3
    assert reward.calls == calls


# --- equal requests ---


def test_equal_requests_are_worked_out_once(service):
    reward, calls = by_plan({1: ["ok"], 2: ["fail"]})
    other = reward.configured(1.0, {})
    first = [service.submit(reward, numbered(index)).result(WAIT_S) for index in (1, 2)]
    again = [service.submit(other, numbered(index)).result(WAIT_S) for index in (1, 2)]
    assert first == again
    assert calls == {1: 1, 2: 1}
    service.submit(reward, numbered(1, metadata={"level": 2})).result(WAIT_S)
    assert calls == {1: 2, 2: 1}
    stats = service.stats()["planned"]
    assert (stats.requests, stats.cache_hits) == (5, 2)


def test_options_and_reward_tell_requests_apart(service):
    @sample_reward
    def scaled(sample, *, factor=1.0):
        return factor * float(sample.text)

    def another():
        return sample_reward(lambda sample: -1.0)

    values = [
        service.submit(reward, numbered(3)).result(WAIT_S)[0].value
        for reward in (scaled, scaled.configured(1.0, {"factor": 2.0}), another(), Batched("sample"))
    ]
    assert values == [3.0, 6.0, -1.0, 1.0]


def test_equal_requests_in_flight_share_one_computation(service):
    judge = Gated()
    futures = [service.submit(judge, numbered(4)) for _ in range(5)]
    futures[0].cancel()  # Who asked first may leave; the others still get their answer.
    judge.open(service)
    assert [scores[0].value for scores in service.gather(futures[1:])] == [4.0] * 4
    assert judge.asked == ["4"]
    with pytest.raises(CancelledError):
        futures[0].result(WAIT_S)
    assert service.stats()["gated"].cache_hits == 4


def test_nothing_is_shared_without_a_cache_or_what_cannot_be_pickled(service):
    reward, calls = by_plan({1: ["ok"]})
    for _ in range(2):
        assert service.submit(reward, numbered(1, metadata={"key": lambda: 0})).result(WAIT_S)[0].value == 1.0
    with closing(service_with(cache_mb=0)) as without:
        for _ in range(2):
            assert without.submit(reward, numbered(1)).result(WAIT_S)[0].value == 1.0
    assert calls == {1: 4}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300)), max_size=40), st.integers(1, 1500))
def test_cache_stays_within_its_bytes_and_never_answers_wrongly(puts, max_bytes):
    cache, last = ScoreCache(max_bytes), {}
    reward, _ = by_plan({})
    for index, size in puts:
        key = cache.key(reward, numbered(index))
        last[index] = Score(float(size), artifacts={"text": "x" * size})
        cache.put(key, [last[index]])
        assert 0 <= cache.bytes <= max_bytes
        found = cache.get(key)
        assert found in (None, [last[index]], *([[Score(float(s), artifacts={"text": "x" * s})] for _, s in puts]))
    if not puts:
        assert len(cache) == cache.bytes == 0


def test_least_recently_used_scores_leave_first():
    reward, _ = by_plan({})
    keys = [ScoreCache(1).key(reward, numbered(index)) for index in range(3)]
    cache = ScoreCache(10_000)
    cache.put(keys[0], [Score(0.0)])
    cache = ScoreCache(2 * cache.bytes)  # Room for two.
    cache.put(keys[0], [Score(0.0)])
    cache.put(keys[1], [Score(1.0)])
    assert cache.get(keys[0]) == [Score(0.0)]
    cache.put(keys[2], [Score(2.0)])
    assert [cache.get(key) for key in keys] == [[Score(0.0)], None, [Score(2.0)]]
    cache.put(keys[1], [Score(None, "timeout")])
    assert cache.get(keys[1]) is None


# --- crashes, the end ---


def test_crash_of_a_worker_loses_nothing(service, tmp_path):
    reward = service_plugins.in_worker.configured(30.0, {})
    texts = [f"killed once {tmp_path / str(i)}" if i % 4 == 0 else f"fine {i}" for i in range(12)]
    scores = service.run(service.score(reward, [make_sample(text=text) for text in texts])).result(WAIT_S)
    assert [score.value for score in scores] == [1.0] * 12
    assert service.stats()["in_worker"].retries == 3


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("reward")]


def test_close_finishes_what_was_asked():
    service = service_with(network=(1, 10))

    @sample_reward
    async def slow(sample):
        await asyncio.sleep(0.05)
        return float(sample.text)

    futures = [service.submit(slow, numbered(index)) for index in range(6)]
    [pid] = service.submit(service_plugins.in_worker.configured(30.0, {}), [make_sample(text="pid")]).result(WAIT_S)
    service.close()
    assert [future.result(0)[0].value for future in futures] == [float(index) for index in range(6)]
    assert not psutil.pid_exists(int(pid.value))
    assert threads() == []
    service.close()
    with pytest.raises(RuntimeError, match="service is closed"):
        service.submit(slow, numbered(0))


def test_close_while_busy_answers_everybody_and_leaves_no_process():
    service = service_with(network=(1, 3), retries=0)
    judge, before = Gated(), set(psutil.Process().children(recursive=True))
    futures = [service.submit(judge, numbered(index)) for index in range(3)]
    futures += [
        service.submit(service_plugins.in_worker.configured(2.0, {}), [make_sample(text="hang", token_count=index)])
        for index in range(3)
    ]
    whole = service.run(service.score(judge, [numbered(index)[0] for index in range(20)]))  # Waits for room.
    assert in_time(lambda: set(psutil.Process().children(recursive=True)) - before)
    service.close(drain=False)
    scores = [score for future in (*futures, whole) for score in future.result(0)]
    assert len(scores) == 3 + 3 + 20
    assert all(score.status == "infra_error" and "was closed" in score.error for score in scores)
    assert set(psutil.Process().children(recursive=True)) <= before
    assert threads() == []


def test_coroutines_can_start_processes(service):
    @sample_reward(timeout_s=30.0)
    async def shell(sample):
        process = await asyncio.create_subprocess_exec("echo", sample.text, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        return float(output)

    assert service.submit(shell, numbered(8)).result(WAIT_S)[0].value == 8.0


class Blocking:
    name = "blocking"
    scope = "sample"

    async def score(self, samples):
        time.sleep(6)
        return [Score(1.0) for _ in samples]


def test_object_that_blocks_the_event_loop_is_named_and_given_up(capfd):
    with closing(service_with(timeout_s=1.0)) as service:
        future = service.run(service.score(Blocking(), numbered(1)))
        with pytest.raises(RewardError, match=r"blocking \(.*\) has blocked the event loop of the rewards for"):
            future.result(WAIT_S)
    assert "evolpo: blocking (test_service.py:" in capfd.readouterr().err


# --- exactly once ---


def expected(plan, retries):
    """The definition: the first try with a value counts, else the last one; and how many tries that took."""
    for tries, step in enumerate(plan[: retries + 1], start=1):
        if step in ("ok", "fail"):
            return ("ok" if step == "ok" else "model_fail"), tries
    return ("timeout" if plan[retries] == "hang" else "infra_error"), retries + 1


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["ok", "fail", "raise", "nan", "hang"]), min_size=3, max_size=3), max_size=20),
    st.integers(0, 2),
    st.integers(1, 4),
    st.integers(1, 6),
)
def test_every_request_is_answered_exactly_once_with_its_own_score(plans, retries, concurrency, queue):
    reward, calls = by_plan(plans, timeout_s=0.02)
    answers = Counter()
    with closing(service_with(network=(concurrency, queue), retries=retries, backoff_s=0.001)) as service:
        futures = []
        for index in range(len(plans)):
            future = service.submit(reward, numbered(index))
            future.add_done_callback(lambda _, index=index: answers.update([index]))
            futures.append(future)
        results = service.gather(futures)
    for index, [score] in enumerate(results):
        status, tries = expected(plans[index], retries)
        assert score.status == status
        assert score.value == {"ok": float(index), "model_fail": 0.0}.get(status)
        assert calls[index] == tries
    assert answers == dict.fromkeys(range(len(plans)), 1)


# --- configuration and figures ---


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resources": {"cpu": ResourceConfig(0, 1)}}, "rewards.service.resources.cpu.concurrency: 0"),
        ({"resources": {"cpu": ResourceConfig(1, 0)}}, "rewards.service.resources.cpu.queue: 0"),
        ({"retries": -1}, "rewards.service.retries: -1"),
        ({"backoff_s": float("inf")}, "rewards.service.backoff_s: inf"),
        ({"timeout_s": 0.0}, "rewards.service.timeout_s: 0.0"),
        ({"cache_mb": -1.0}, "rewards.service.cache_mb: -1.0"),
    ],
)
def test_config_checks(fields, message):
    with pytest.raises(InputError) as caught:
        ServiceConfig(**fields)
    assert str(caught.value).startswith(message)


def test_reward_that_needs_an_unknown_resource(service):
    reward = Away()
    reward.resource = "gpu"
    with pytest.raises(InputError, match=r"^rewards\.service\.resources: away needs 'gpu', .* cpu, process, network"):
        service.submit(reward, numbered(1))


def test_quantiles_by_hand():
    assert [quantile([1.0, 2.0, 3.0, 4.0], share) for share in (0.0, 0.25, 0.5, 0.51, 0.99)] == [1, 1, 2, 3, 4]
    recorder = StatsRecorder()
    recorder.admitted("judge", 3)
    recorder.answered("judge", [Score(1.0), Score(None, "timeout")], latency_s=2.0, queue_wait_s=0.5, retries=2)
    recorder.answered("judge", [Score(1.0)], latency_s=4.0, queue_wait_s=1.5, retries=0)
    recorder.shared("judge", [Score(1.0)])
    assert recorder.snapshot() == recorder.snapshot()
    stats = recorder.snapshot(reset=True)["judge"]
    assert (stats.requests, stats.retries, stats.cache_hits, stats.queued_max) == (3, 2, 1, 3)
    assert (stats.scored_share, stats.statuses) == (0.75, {"ok": 3, "timeout": 1})
    assert (stats.latency_p50_s, stats.latency_p99_s) == (2.0, 4.0)
    assert (stats.queue_wait_p50_s, stats.queue_wait_p99_s) == (0.5, 1.5)
    assert recorder.snapshot() == {}
