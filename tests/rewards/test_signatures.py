"""Adapters pass what a signature names, and refuse on loading what they cannot call."""

import asyncio

import pytest

from evolpo import InputError
from evolpo.rewards import load_reward
from evolpo.rewards.adapters.guess import how_to_use
from evolpo.rewards.testing import make_group, make_sample


def load(adapter, function, **options):
    return load_reward(
        f"evolpo.rewards.adapters:{adapter}", "use", {"function": f"foreign_rewards:{function}", **options}
    )


def values(reward, samples):
    scores = asyncio.run(reward.score(samples))
    assert not [one.error for one in scores if one.unscored]
    return [one.value for one in scores]


PAIR = make_group("4", "5", answer="4", metadata={"level": 3}, token_count=1, token_ids=(1, 2))


@pytest.mark.parametrize(
    ("adapter", "function", "options", "expected"),
    [
        ("verl", "verl_two", {}, [1.0, 0.0]),
        ("verl", "verl_other_names", {"scale": 3}, [3.0, 0.0]),
        ("verl", "verl_ids", {}, [3.0, 3.0]),
        ("verl", "verl_batch", {"factor": 2.0}, [2.0, 0.0]),
        ("skyrl", "verl_two", {}, [1.0, 0.0]),
        ("trl", "trl_ids", {"conversational": False}, [3.0, 3.0]),
        ("trl", "trl_all", {"conversational": "no"}, [1.0, 1.0]),
        ("trl", "trl_strict", {"conversational": False}, [1.0, 1.0]),
        ("trl", "TrlScaled", {"conversational": False, "factor": "3", "bonus": 1.0}, [4.0, 4.0]),
        ("nemo_rl", "nemo", {}, [1.0, 0.0]),
        ("nemo_rl", "nemo_format", {"tag": "5"}, [0.0, 1.0]),
        ("rllm", "rllm", {}, [1.0, 0.0]),
        ("rllm", "RllmInput", {}, [1.0, 0.0]),
        ("slime", "slime_one", {"args": {"reward_key": "accuracy"}}, [1.0, 0.0]),
        ("slime", "slime_many", {"args": {"scale": 0.5}}, [0.5, 0.0]),
        ("verifiers", "SomeTask", {"conversational": True}, [4.0, 2.0]),
    ],
)
def test_functions_get_what_they_name(adapter, function, options, expected):
    assert values(load(adapter, function, **options), PAIR) == expected


def test_metrics():
    right = asyncio.run(load("rllm", "rllm").score(PAIR))[0]
    assert right.metrics == {"length": 1.0, "level": 3.0, "is_correct": 1.0}
    assert asyncio.run(load("nemo_rl", "nemo").score(PAIR))[1].metrics == {"is_correct": 0.0}
    task = asyncio.run(load("verifiers", "SomeTask", conversational=True).score(PAIR))[0]
    assert task.metrics == {"right": 1.0, "first": 3.0, "second": 1.0, "length": 1.0}
    slime = asyncio.run(load("slime", "slime_one", args={"reward_key": "accuracy"}).score(PAIR))[0]
    assert slime.metrics == {"length": 2.0}


def test_ground_truth_from_the_columns_of_each_toolkit():
    verl = make_sample(text="7", answer="4", metadata={"reward_model": {"ground_truth": "7"}})
    assert values(load("verl", "verl_two"), [verl]) == [1.0]
    skyrl = make_sample(text="7", answer="4", metadata={"reward_spec": {"ground_truth": "7"}})
    assert values(load("skyrl", "verl_two"), [skyrl]) == [1.0]


def test_columns_and_options():
    both = make_group("4", answer="4", metadata={"solution": "we add"})
    asked = load("trl", "trl_exact", conversational=False, answer_column="solution")
    assert values(asked, both) == [1.0]
    assert values(load("trl", "trl_exact", conversational=False), both) == [0.0]
    assert values(load("trl", "trl_exact", conversational=False, solution=["4"]), both) == [1.0]
    names = make_group("4", "5", metadata={"function": "area", "self": "area", "conversational": 1})
    assert values(load("trl", "trl_function_column", conversational=False), names) == [0.5, 0.5]
    assert values(load("trl", "trl_typed", conversational=False), make_group("x", answer=["a", 1])) == [1.0]


def test_what_is_wrong_with_one_response_leaves_the_others():
    scores = asyncio.run(load("trl", "trl_odd_values", conversational=False).score(make_group(*"abcd")))
    assert [one.status for one in scores] == ["ok", "skipped", "infra_error", "infra_error"]


@pytest.mark.parametrize(
    ("adapter", "function", "options", "message"),
    [
        ("trl", "trl_mapping", {"conversational": False}, "trl_mapping returned dict"),
        ("trl", "trl_column", {"conversational": False}, "trl_column needs the column 'keyword'; there are level,"),
        ("verl", "verl_batch_short", {}, "verl_batch_short returned 1 rewards for 2 responses"),
        ("slime", "slime_one", {}, "slime_one returned accuracy, length; name one as options.args.reward_key"),
    ],
)
def test_what_only_a_call_can_tell(adapter, function, options, message):
    scores = asyncio.run(load(adapter, function, **options).score(PAIR))
    assert {(one.value, one.status) for one in scores} == {(None, "infra_error")}
    assert message in scores[0].error


def test_token_ids_that_are_not_there_are_no_zero():
    [score] = asyncio.run(load("trl", "trl_ids", conversational=False).score(make_group("x")))
    assert "trl_ids needs token ids, which the samples do not have" in score.error
    assert values(load("trl", "trl_all", conversational=False), make_group("x")) == [0.0]


@pytest.mark.parametrize(
    ("adapter", "function", "options", "message"),
    [
        (
            "verl",
            "verl_needs_tokenizer",
            {},
            "needs 'reward_model_tokenizer', which verl does not pass (it passes data_s",
        ),
        (
            "verl",
            "verl_two",
            {"scale": 1},
            "verl_two got an unexpected keyword argument 'scale'; it takes solution_str",
        ),
        ("verl", "trl_strict", {"scale": 1}, "unexpected keyword argument 'scale'"),
        ("trl", "trl_state", {"conversational": False}, "trl_state needs 'trainer_state', the state of TRL's trainer"),
        (
            "trl",
            "NeedsModel",
            {"conversational": False},
            "NeedsModel cannot be made: options.model: missing a required",
        ),
        (
            "trl",
            "CannotBeCalled",
            {"conversational": False},
            "objects of foreign_rewards:CannotBeCalled cannot be called",
        ),
        ("skyrl", "compute_score", {}, "passes the response and the ground truth by position"),
        ("nemo_rl", "trl_keyword", {}, "takes prompts, completions, keyword; nemo_rl passes the ground truth"),
        ("slime", "trl_mapping", {}, "takes completions; slime passes args and a sample"),
        ("openrlhf", "compute_score_many", {}, "no attribute 'compute_score_many'"),
        ("verifiers", "correct", {"conversational": True}, "correct needs 'parser', which verifiers does not pass"),
        ("verifiers", "NeedsSandbox", {"conversational": True}, "right needs 'runtime', which verifiers does not pass"),
        ("verifiers", "Parser", {"conversational": True}, "without methods that are marked as rewards"),
    ],
)
def test_refused_on_loading(adapter, function, options, message):
    with pytest.raises(InputError) as caught:
        load(adapter, function, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def completions(completions, **kwargs): ...


def solution(data_source, solution_str, ground_truth, extra_info=None): ...


def queries(queries, prompts, labels): ...


def args(args, sample, **kwargs): ...


def response(response, ground_truth): ...


def ground_truth(ground_truth, response): ...


def reply(prompt, completion, answer): ...


def anything(*args, **kwargs): ...


@pytest.mark.parametrize(
    ("function", "adapter"),
    [
        (completions, 'trl", options: {function: "m:f", conversational: false}'),
        (solution, 'verl", options: {function: "m:f"}'),
        (queries, 'openrlhf", options: {function: "m:f"}'),
        (args, 'slime", options: {function: "m:f"}'),
        (response, 'skyrl", options: {function: "m:f"}'),
        (ground_truth, 'nemo_rl", options: {function: "m:f"}'),
        (reply, 'verifiers", options: {function: "m:f", conversational: false}'),
    ],
)
def test_the_adapter_is_told_by_the_parameters(function, adapter):
    assert how_to_use(function, "m:f") == f'use: "evolpo.rewards.adapters:{adapter}'


def test_of_other_functions_nothing_is_said():
    assert how_to_use(anything, "m:f") == how_to_use(lambda text: 1.0, "m:f") == how_to_use(max, "m:f") == ""
