import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import reward_plugins

from evolpo.rewards.service.workers import Target, WorkerPool
from evolpo.rewards.testing import make_sample

TARGET = Target.of(reward_plugins.isolated.function)


@pytest.fixture
def pool():
    with closing(WorkerPool(1)) as one_worker:
        yield one_worker


def run(pool, *texts, timeout_s=5.0):
    """Outcomes of calls that are handed over one by one."""
    futures = [pool.submit(TARGET, [make_sample(text=text)], {}, timeout_s) for text in texts]
    return [outcome for future in futures for outcome in future.result(timeout=60)]


def test_clock_starts_with_the_work(pool):
    outcomes = run(pool, *["sleep 0.3"] * 4, timeout_s=0.8)  # 1.2 s in all, on one worker.
    assert [outcome.kind for outcome in outcomes] == ["returned"] * 4
    assert all(0.3 <= outcome.elapsed_s < 0.8 for outcome in outcomes)


def test_worker_is_kept_and_replaced_only_after_its_death(pool):
    first, second, hung, third = run(pool, "pid", "pid", "hang", "pid", timeout_s=0.5)
    assert first.value == second.value != third.value
    assert hung.kind == "timeout"
    with pytest.raises(ProcessLookupError):
        os.kill(int(first.value.value), 0)


def test_worker_that_died_while_idle(pool):
    [before] = run(pool, "pid")
    os.kill(int(before.value.value), signal.SIGKILL)
    [after] = run(pool, "pid")
    assert (after.kind, after.value == before.value) == ("returned", False)


def test_what_cannot_travel(pool):
    [outcome] = pool.submit(TARGET, [lambda: None], {}, 5.0).result()
    assert outcome.kind == "raised"
    [returned] = run(pool, "lambda in artifacts")
    assert returned.error.startswith("result cannot be sent back")


def test_module_that_cannot_be_imported(pool):
    [outcome] = pool.submit(Target("no_such_module", "f"), [1], {}, 5.0).result()
    assert (outcome.kind, outcome.error.split(" (")[0]) == (
        "raised",
        "ModuleNotFoundError: No module named 'no_such_module'",
    )


def test_close_ends_the_workers():
    pool = WorkerPool(2)
    pids = {int(outcome.value.value) for outcome in run(pool, "pid", "pid")}
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("text", ["good", "regex"])
def test_no_worker_outlives_a_killed_parent(text):
    program = f"""
import sys; sys.path[:] = {sys.path!r}
from evolpo.rewards.testing import make_sample
from evolpo.rewards.service.workers import Target, WorkerPool
import reward_plugins
pool, target = WorkerPool(1), Target.of(reward_plugins.isolated.function)
print(int(pool.submit(target, [make_sample(text="pid")], {{}}, 5.0).result()[0].value.value), flush=True)
pool.submit(target, [make_sample(text={text!r})], {{}}, 0.5)
import time; time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.2)
        parent.kill()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
