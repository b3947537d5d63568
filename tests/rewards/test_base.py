import asyncio
import os
import subprocess
import sys
import time
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import reward_plugins
import torch
from reward_plugins import HEAVY

from evolpo.rewards import FunctionReward, Reward, Sample, Score, group_reward, sample_reward
from evolpo.rewards.testing import make_sample
from evolpo.rl.data import Prompt, Response


def score(reward, *texts):
    return asyncio.run(reward.score([make_sample(text=text) for text in texts]))


def test_sample_of_prompt_and_response():
    prompt = Prompt("p1", "2 + 2?", (1, 2), answer="4", difficulty="easy", metadata={"terms": 2})
    response = Response((5, 6, 7), "It is 4", (-0.1, -0.2, -0.3), "length")
    assert Sample.of(prompt, response) == Sample("2 + 2?", "It is 4", "4", "easy", {"terms": 2}, 3, True, (5, 6, 7))


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (None, "ok"),
        (float("nan"), "ok"),
        (float("inf"), "ok"),
        (1.0, "model_fail"),
        (None, "model_fail"),
        (0.0, "infra_error"),
        (0.0, "timeout"),
        (0.0, "skipped"),
        (1.0, "fine"),
    ],
)
def test_score_refuses_contradictions(value, status):
    with pytest.raises(ValueError, match=r"Score\."):
        Score(value, status)


def test_decorated_function_is_still_the_function():
    assert reward_plugins.wordy(make_sample(text="yes please")) == 1.0
    assert reward_plugins.shortest([make_sample(token_count=3), make_sample(token_count=2)]) == [0.0, 1.0]
    assert reward_plugins.wordy.__name__ == reward_plugins.wordy.name == "wordy"
    assert isinstance(reward_plugins.wordy, Reward)
    assert isinstance(reward_plugins.Counted(), Reward)


def test_decorators_with_and_without_settings():
    def constant(sample):
        return 1.0

    assert isinstance(sample_reward(constant), FunctionReward)
    configured = sample_reward(timeout_s=5, isolate=True)(constant)
    assert (configured.timeout_s, configured.isolate, configured.scope) == (5, True, "sample")
    assert group_reward(timeout_s=2)(constant).scope == "group"


@pytest.mark.parametrize("name", ["plain", "isolated", "coroutine", "isolated_coroutine"])
@pytest.mark.parametrize(
    "text", ["raise", "nan", "inf", "str", "dict", "lambda", "interrupt", "generator exit", "cannot be shown"]
)
def test_what_goes_wrong_is_never_a_value(name, text):
    before, wrong, after = score(getattr(reward_plugins, name), "good", text, "good")
    assert (wrong.value, wrong.status) == (None, "infra_error")
    assert wrong.error
    assert before.value == after.value == 0.5


def test_error_text_names_exception_and_place():
    [wrong] = score(reward_plugins.plain, "raise")
    assert wrong.error.startswith("KeyError: 'no such thing' (reward_plugins.py:")


@pytest.mark.parametrize("name", ["plain", "isolated", "coroutine"])
def test_good_results(name):
    right, failed = score(getattr(reward_plugins, name), "true", "fail")
    assert (right.value, right.status) == (1.0, "ok")
    assert isinstance(right.value, float)
    assert (failed.value, failed.status, failed.error) == (0.0, "model_fail", "not even text")


@pytest.mark.parametrize(
    "value", [np.float32(0.5), Fraction(1, 2), Decimal("0.5"), np.array(0.5), torch.tensor(0.5), torch.tensor([0.5])]
)
def test_anything_that_is_a_number_will_do(value):
    [got] = score(sample_reward(lambda sample: value), "")
    assert (got.value, type(got.value)) == (0.5, float)


@pytest.mark.parametrize("name", ["plain", "isolated", "coroutine", "isolated_coroutine"])
def test_none_is_not_mine(name):
    before, not_mine, after = score(getattr(reward_plugins, name), "good", "none", "good")
    assert (not_mine.value, not_mine.status, not_mine.error) == (None, "skipped", "")
    assert before.value == after.value == 0.5


@pytest.mark.parametrize("results", [np.array([0.5, 0.5]), torch.full((2,), 0.5), (0.5, 0.5), iter([0.5, 0.5])])
def test_results_of_a_group_in_any_order_keeping_form(results):
    assert [one.value for one in score(group_reward(lambda samples: results), "a", "b")] == [0.5, 0.5]


@pytest.mark.parametrize("results", [{0: 0.5, 1: 0.5}, {0.5, 0.25}, "ab", 0.5, None])
def test_other_results_of_a_group_are_errors(results):
    scores = score(group_reward(lambda samples: results), "a", "b")
    assert [(one.value, one.status) for one in scores] == [(None, "infra_error")] * 2
    assert f"<lambda> returned {type(results).__name__}" in scores[0].error


def test_one_bad_result_leaves_the_others_of_the_group():
    scores = score(group_reward(lambda samples: [0.5, float("nan"), None, "0.5"]), *"abcd")
    assert [one.status for one in scores] == ["ok", "infra_error", "skipped", "infra_error"]


@pytest.mark.parametrize("name", ["plain", "coroutine"])
def test_metrics_of_other_libraries_become_numbers(name):
    [got] = score(getattr(reward_plugins, name), "numpy metric")
    assert got.metrics == {"length": 1.0, "half": 0.5}
    assert {type(value) for value in got.metrics.values()} == {float}


def test_array_is_no_number():
    [got] = score(sample_reward(lambda sample: np.zeros(2)), "")
    assert (got.value, got.status) == (None, "infra_error")


@pytest.mark.parametrize("text", ["hang", "regex"])
def test_hang_times_out_and_the_others_are_scored(text):
    score(reward_plugins.isolated, "good")  # A worker is up.
    started = time.perf_counter()
    scores = score(reward_plugins.isolated, text, "good", text, "good")
    assert time.perf_counter() - started < 4.0
    assert [one.status for one in scores] == ["timeout", "ok", "timeout", "ok"]
    assert scores[0].value is None
    assert scores[0].elapsed_s == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "reason"), [("exit", "exit code 3"), ("segfault", "signal SIGSEGV"), ("sys.exit", "SystemExit: 3")]
)
def test_crash_is_an_infra_error_and_the_pool_survives(text, reason):
    scores = score(reward_plugins.isolated, text, "good", text, "good")
    assert [one.status for one in scores] == ["infra_error", "ok", "infra_error", "ok"]
    assert reason in scores[0].error


def test_coroutine_times_out():
    hung, good, own = score(reward_plugins.coroutine, "hang", "good", "own timeout")
    assert (hung.value, hung.status) == (None, "timeout")
    assert good.value == 0.5
    assert own.status == "infra_error"


def test_coroutines_run_together_but_their_clock_waits_for_their_turn():
    async def slow(sample):
        await asyncio.sleep(1.0)
        return 1.0

    started = time.perf_counter()
    scores = score(sample_reward(timeout_s=2.5)(slow), *["a"] * 150)  # Three rounds of at most 64.
    assert all(one.status == "ok" for one in scores)
    assert 3.0 <= time.perf_counter() - started < 75.0  # One after the other they take 150.


def test_a_slow_plain_reward_does_not_time_out_the_coroutines_beside_it():
    def slow(sample):
        time.sleep(0.02)
        return 1.0

    async def both():
        samples = [make_sample()] * 30  # 0.6 s in all, twice the coroutines' deadline.
        coroutines = asyncio.create_task(reward_plugins.coroutine.score(samples))
        await asyncio.sleep(0.005)  # Their clocks are running now.
        return await sample_reward(slow).score(samples) + await coroutines

    assert all(one.status == "ok" for one in asyncio.run(both()))


def test_isolated_functions_run_elsewhere_without_heavy_libraries():
    import sympy

    assert sympy.__name__ in sys.modules
    heavy, pid = score(reward_plugins.isolated, "heavy", "pid")
    assert heavy.value == 0.0
    assert pid.value != os.getpid()


def test_local_function_cannot_be_isolated():
    @sample_reward(isolate=True)
    def local(sample):
        return 1.0

    with pytest.raises(ValueError, match=r"isolate=True cannot run test_base.*local.* top level of a module"):
        score(local, "good")


def test_group_reward_scores_and_shared_failure():
    samples = [make_sample(token_count=count) for count in (3, 2, 5)]
    assert [one.value for one in asyncio.run(reward_plugins.shortest.score(samples))] == [0.0, 1.0, 0.0]
    mixed = [make_sample(prompt="a"), make_sample(prompt="b")]
    assert [one.status for one in asyncio.run(reward_plugins.shortest.score(mixed))] == ["infra_error"] * 2


def test_group_reward_with_wrong_results():
    few = score(reward_plugins.one_too_few, "a", "b", "c")
    assert [one.status for one in few] == ["infra_error"] * 3
    assert few[0].error == "one_too_few returned 2 results: a group of 3 needs a list of 3"
    half = score(reward_plugins.half_right, *"abcd")
    assert [one.status for one in half] == ["ok", "infra_error", "model_fail", "infra_error"]


def test_isolated_group_times_out_as_one():
    assert [one.value for one in score(reward_plugins.isolated_group, "a", "true")] == [0.5, 1.0]
    assert [one.status for one in score(reward_plugins.isolated_group, "a", "hang")] == ["timeout"] * 2


def test_no_samples_no_scores():
    assert asyncio.run(reward_plugins.isolated.score([])) == []
    assert asyncio.run(reward_plugins.shortest.score([])) == []


def test_import_is_light():
    program = f"import sys, evolpo.rewards; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_throughput():
    started = time.perf_counter()
    scores = score(reward_plugins.isolated, *["good"] * 500)
    assert time.perf_counter() - started < 5.0
    assert {one.status for one in scores} == {"ok"}
