"""Reward functions of other toolkits through the adapters: TRL's own, and functions in their documented forms."""

import asyncio
import time

import pytest

from evolpo import InputError
from evolpo.rewards import load_reward
from evolpo.rewards.testing import check_reward, make_group, make_sample

RIGHT, WRONG = r"<think>1 + 1</think> It is \boxed{2}.", r"It is \boxed{3}."


def load(adapter, function, timeout_s=20.0, **options):
    path = function if ":" in function else f"foreign_rewards:{function}"
    return load_reward(f"evolpo.rewards.adapters:{adapter}", "use", {"function": path, **options}, timeout_s)


def score(reward, samples):
    return asyncio.run(reward.score(samples))


# -- TRL ----------------------------------------------------------------------------------------------------------


def test_trl_own_accuracy_reward():
    reward = load("trl", "trl.rewards:accuracy_reward", conversational=True, answer_column="solution")
    assert (reward.name, reward.scope) == ("accuracy_reward", "group")
    scores = check_reward(reward, make_group(RIGHT, WRONG, "no box", answer="2"))
    assert [one.value for one in scores] == [1.0, 0.0, 0.0]
    assert scores[0].artifacts["solution"] == "2"  # What it hands to log_extra.


def test_trl_own_accuracy_reward_without_reference_is_skipped():
    reward = load("trl", "trl.rewards:accuracy_reward", conversational=True, answer_column="solution")
    scores = score(reward, make_group(RIGHT, answer=""))
    assert [(one.value, one.status) for one in scores] == [(None, "skipped")]


def test_trl_column_from_the_metadata():
    reward = load("trl", "trl.rewards:accuracy_reward", conversational=True)
    assert score(reward, make_group(RIGHT, answer=None, metadata={"solution": "2"}))[0].value == 1.0


def test_trl_own_format_rewards():
    think = load("trl", "trl.rewards:think_format_reward", conversational=True)
    assert [one.value for one in check_reward(think, make_group(RIGHT, WRONG))] == [1.0, 0.0]
    reasoning = load("trl", "trl.rewards:reasoning_accuracy_reward", conversational=True, answer_column="solution")
    assert [one.value for one in check_reward(reasoning, make_group(RIGHT, WRONG, answer="2"))] == [1.0, 0.0]


def test_trl_strings_columns_and_none():
    reward = load("trl", "trl_keyword", conversational=False)
    samples = [*make_group("a cat", "a dog", metadata={"keyword": "cat"}), *make_group("a cat", metadata={})]
    scores = score(reward, samples)
    assert [(one.value, one.status) for one in scores] == [(1.0, "ok"), (0.0, "ok"), (None, "skipped")]


def test_trl_coroutines_of_many_groups_run_together():
    reward = load("trl", "trl_slow_judge", conversational=True)
    score(reward, make_group("a"))  # A worker is up.

    async def all_groups():
        return await asyncio.gather(*(reward.score(make_group("abcd", "ab")) for _ in range(20)))

    started = time.perf_counter()
    groups = asyncio.run(all_groups())
    assert time.perf_counter() - started < 3.0  # One after the other they would take 6 s.
    assert [one.value for one in groups[0]] == [1.0, 0.5]
    assert groups[0][1].metrics == {"judge/longest": 4.0}
    assert [one.artifacts["length"] for one in groups[0]] == [4, 2]


def test_trl_options_are_passed_on():
    assert score(load("trl", "trl_scaled", conversational=False, scale=0.5), make_group("abcd"))[0].value == 2.0
    doubled = load("trl", "trl_doubled", conversational=False)
    assert doubled.name == "trl_scaled"
    assert score(doubled, make_group("abcd"))[0].value == 8.0


def test_trl_mistakes_of_the_function_are_no_zero():
    [one, two] = score(load("trl", "trl_one_too_few", conversational=False), make_group("a", "b"))
    assert (one.value, one.status, two.status) == (None, "infra_error", "infra_error")
    assert "returned 1 rewards for 2 responses" in one.error
    # It reads messages and is given strings.
    [wrong_form] = score(load("trl", "trl.rewards:think_format_reward", conversational=False), make_group(RIGHT))
    assert wrong_form.status == "infra_error"
    assert "TypeError" in wrong_form.error


# -- verl ---------------------------------------------------------------------------------------------------------

SCHOOL = {"data_source": "school", "extra_info": {"index": 7}}


def test_verl():
    reward = load("verl", "compute_score")
    assert (reward.name, reward.scope) == ("compute_score", "sample")
    texts = ["#### 1,200", "#### 5", "no hashes"]
    scores = check_reward(reward, [make_sample(text=text, answer="1200", metadata=SCHOOL) for text in texts])
    assert [one.value for one in scores] == [1.0, 0.1, 0.0]
    assert scores[0].metrics == {"acc": 1.0, "row": 7.0}


def test_verl_data_files_and_reward_kwargs():
    reward = load("verl", "compute_score", format_score=0.0, data_source="school")
    metadata = {"extra_info": {"index": 0}, "reward_model": {"style": "rule", "ground_truth": "5"}}
    samples = [make_sample(text=text, answer=None, metadata=metadata) for text in ("#### 5", "#### 6")]
    assert [one.value for one in score(reward, samples)] == [1.0, 0.0]


def test_verl_exception_is_no_zero_and_leaves_the_others():
    samples = [make_sample(text="#### 4", metadata={**SCHOOL, "data_source": s}) for s in ("poetry", "school")]
    broken, good = score(load("verl", "compute_score"), samples)
    assert (broken.value, broken.status) == (None, "infra_error")
    assert "no reward for 'poetry'" in broken.error
    assert good.value == 1.0


def test_verl_function_that_hangs_is_ended():
    hung, good = score(load("verl", "compute_score_hanging", 0.5), [make_sample(text="hang"), make_sample()])
    assert (hung.status, good.value) == ("timeout", 1.0)


def test_verl_coroutines_run_together():
    reward = load("verl", "compute_score_async")
    score(reward, [make_sample()])  # A worker is up.
    started = time.perf_counter()
    scores = score(reward, [make_sample(text="4")] * 40)
    assert time.perf_counter() - started < 3.0  # One after the other they would take 12 s.
    assert {one.value for one in scores} == {1.0}


# -- OpenRLHF -----------------------------------------------------------------------------------------------------


def test_openrlhf():
    reward = load("openrlhf", "reward_func")
    assert (reward.name, reward.scope) == ("reward_func", "group")
    right, wrong = check_reward(reward, make_group(" 4", " 55", prompt="2 + 2 =", answer="4"))
    assert (right.value, wrong.value) == (1.0, -1.0)
    assert right.metrics == {"scores": 1.0, "accuracy": 0.5, "length": 9.0}
    assert wrong.metrics == {"scores": 0.0, "accuracy": 0.5, "length": 10.0}


def test_openrlhf_plain_tensor_and_wrong_size():
    assert score(load("openrlhf", "reward_func_plain"), make_group("abc", prompt="x"))[0].value == 4.0
    scores = score(load("openrlhf", "reward_func_short"), make_group("a", "b"))
    assert "reward_func_short returned 1 rewards for 2 responses" in scores[0].error


# -- verifiers ----------------------------------------------------------------------------------------------------


def test_verifiers_function_by_parameter_names():
    reward = load("verifiers", "echoes", conversational=False)
    assert (reward.name, reward.scope) == ("echoes", "group")
    scores = check_reward(reward, make_group("why? because", "because", prompt="why?"))
    assert [one.value for one in scores] == [1.0, 0.0]


def test_verifiers_rubric_is_the_weighted_sum():
    reward = load("verifiers", "rubric", conversational=True)
    assert reward.name == "rubric"
    texts = ["<answer>4</answer>", "<answer>5</answer>", "After long thought: <answer>4</answer>"]
    scores = check_reward(reward, make_group(*texts, metadata={"info": {"limit": 20}}))
    assert [one.value for one in scores] == [1.25, 0.25, 1.0]
    assert scores[2].metrics == {"correct": 1.0, "brief": 0.0}


def test_verifiers_group_of_rubrics_with_a_group_function():
    reward = load("verifiers", "rubric_group", conversational=True)
    texts = ["<answer>4</answer>", "<answer>4</answer>", "<answer>5</answer>"]
    scores = check_reward(reward, make_group(*texts, metadata={"limit": 20}))
    assert [one.value for one in scores] == [1.25, 1.25, 0.25]
    assert [one.metrics["diverse"] for one in scores] == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_verifiers_exception_is_no_zero_and_leaves_the_others():
    silent, good = score(load("verifiers", "fails_on_silence", conversational=True), make_group("", "ab"))
    assert (silent.value, silent.status, good.value) == (None, "infra_error", 0.5)
    assert "fails_on_silence: ZeroDivisionError" in silent.error


# -- mistakes in the configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapter", "options", "message"),
    [
        ("trl", {"function": "foreign_rewards:trl_keyword"}, "argument: 'conversational'"),
        ("verl", {}, "argument: 'function'"),
        (
            "verl",
            {"function": "foreign_rewards:compute_scores"},
            "foreign_rewards has no attribute 'compute_scores'; did you mean 'compute_score'?",
        ),
        ("verl", {"function": 3}, "'3' is no module:attribute; write it as in my_rewards:polite"),
        ("trl", {"function": None, "conversational": True}, "None is no str"),
        ("skyrl", {"function": ["a:b"]}, "['a:b'] is no str"),
        ("slime", {"function": "rewards.py:f"}, "write rewards:f"),
        ("verifiers", {"function": "", "conversational": False}, "'' is no module:attribute"),
        ("verl", {"function": "no_such_module:f"}, "there is no module 'no_such_module'"),
        ("verl", {"function": "foreign_rewards:NOT_A_FUNCTION"}, "is a int; give a function"),
        ("verl", {"function": "foreign_rewards:compute_score", "fromat_score": 1}, "unexpected keyword argument"),
        ("verifiers", {"function": "foreign_rewards:empty_rubric", "conversational": True}, "has no functions"),
    ],
)
def test_mistakes_are_found_on_loading(adapter, options, message):
    with pytest.raises(InputError) as caught:
        load_reward(f"evolpo.rewards.adapters:{adapter}", "rewards.components[0].use", options)
    assert str(caught.value).startswith("rewards.components[0].options.")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
