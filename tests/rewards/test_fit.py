"""What rewards need of a prompt, and components that judge some tasks alone."""

import math

import pytest

from evolpo import InputError
from evolpo.rewards import RewardsConfig, RewardSpec, RewardStack, Sample, sample_reward
from evolpo.rewards.answers.accepted import answer_texts
from evolpo.rewards.fit import an_answer, needs, why_unfit
from evolpo.rewards.registry import load_reward
from evolpo.rl.data import Group, Prompt, Response


@sample_reward
@needs(lambda prompt, *, column="level", **_: None if column in prompt.metadata else f"it has no {column}")
def levelled(sample: Sample, *, column: str = "level") -> float:
    return float(sample.metadata[column])


@sample_reward
def right(sample: Sample) -> float:
    return float(sample.text in answer_texts(sample.answer))


@sample_reward
def polite(sample: Sample) -> float:
    return float("please" in sample.text)


@sample_reward
def never(sample: Sample) -> float:
    return 0.0


HERE = "test_fit"


def stack(*components):
    return RewardStack(RewardsConfig([RewardSpec(**one) for one in components]))


def group(*texts, **prompt):
    responses = tuple(Response((1,), text, (0.0,), "stop") for text in texts)
    return Group(Prompt("x", "p", (1,), **prompt), responses)


@pytest.fixture(autouse=True)
def importable(monkeypatch, request):
    monkeypatch.syspath_prepend(request.path.parent)


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        (None, []),
        ("", []),
        (" ", []),
        ("a", ["a"]),
        (0, ["0"]),
        (3, ["3"]),
        (72.0, ["72"]),
        (0.5, ["0.5"]),
        (1e300, ["1e+300"]),
        (True, ["True"]),
        (["a", 2, None, ["b"]], ["a", "2", "b"]),
        ([], []),
        ({"x": 1}, ['{"x": 1}']),
    ],
)
def test_answers_as_texts(answer, texts):
    assert answer_texts(answer) == texts
    assert (an_answer(Prompt("x", "p", (), answer)) is None) == bool(texts)


@pytest.mark.parametrize(
    ("use", "options", "prompt", "why"),
    [
        ("math", {}, {}, "it has no reference answer"),
        ("math", {}, {"answer": 0}, None),
        ("math", {}, {"answer": ["", None]}, "it has no reference answer"),
        ("math", {}, {"answer": [None, "3"]}, None),
        ("math", {}, {"answer": {"a": 1}}, "the reference answer {'a': 1}, is no text, finite number, truth value or"),
        ("math", {}, {"answer": math.nan}, "the reference answer nan, is no text"),
        ("math", {}, {"answer": ["3", math.inf]}, "which holds inf, is no text"),
        ("math", {}, {"answer": ["3", ["4"]]}, "which holds ['4'], is no text"),
        ("math", {}, {"answer": [["x" * 500]]}, "..., is no text"),
        ("choice", {}, {"answer": {"label": "B"}}, "is no text"),
        ("pattern", {}, {"answer": {"a": 1}}, "is no text"),
        ("pattern", {}, {"answer": ["a+", "(b"]}, "'(b' is no regular expression"),
        ("pattern", {}, {"answer": ["a+", None]}, None),
        ("length", {"correct": "math"}, {"answer": {"a": 1}}, "is no text"),
        ("choice", {}, {}, "it has no reference answer"),
        ("choice", {}, {"answer": "B"}, None),
        ("choice", {}, {"answer": 7, "metadata": {"choices": ["a", "b"]}}, "names no option"),
        ("pattern", {}, {}, "it has no reference answer"),
        ("pattern", {"pattern": "yes"}, {}, None),
        ("reasoning_gym", {}, {"answer": "2"}, "metadata['entry'] is missing"),
        ("reasoning_gym", {}, {"metadata": {"entry": {"question": "?"}}}, None),
        ("length", {"correct": "math"}, {}, "it has no reference answer"),
        ("length", {"correct": "format"}, {}, None),
        ("code_tests", {}, {"answer": "2"}, "metadata['tests'] is missing"),
        ("code_tests", {}, {"metadata": {"tests": [{"stdin": "", "stdout": ""}]}}, None),
        ("code_tests", {"language": "python"}, {"metadata": {"tests": [], "language": "javascript"}}, "is not options"),
        ("format", {}, {}, None),
        (f"{HERE}:levelled", {}, {}, "it has no level"),
        (f"{HERE}:levelled", {"column": "depth"}, {"metadata": {"level": 1}}, "it has no depth"),
        (f"{HERE}:levelled", {"column": "depth"}, {"metadata": {"depth": 1}}, None),
    ],
)
def test_rewards_say_what_they_need(use, options, prompt, why):
    found = why_unfit(load_reward(use, "use", options), Prompt("x", "p", (), **prompt))
    assert found is None if why is None else why in found


def test_components_judge_their_tasks_alone():
    rewards = stack(
        {"use": f"{HERE}:right", "tasks": ["sums"]},
        {"use": f"{HERE}:levelled", "tasks": ["levels", "other"], "weight": 2.0},
        {"use": f"{HERE}:polite", "weight": 0.5},
    )
    try:
        assert rewards.tasks == {"sums", "levels", "other"}
        sums, levels, none = rewards.score(
            [
                group("5", "5 please", answer=5, task="sums"),
                group("a", metadata={"level": 3}, task="levels"),
                group("please", task="talk"),
            ]
        )
    finally:
        rewards.close()
    assert sums.rewards == (1.0, 0.5)
    assert sums.breakdown[0] == {"right": 1.0, "polite": 0.0}
    assert (levels.rewards, levels.breakdown) == ((6.0,), ({"levelled": 3.0, "polite": 0.0},))
    assert (none.rewards, none.breakdown) == ((0.5,), ({"polite": 1.0},))


def test_the_gate_of_another_task_is_open_and_floors_nothing():
    rewards = stack(
        {"use": f"{HERE}:polite", "weight": -1.0},
        {"use": f"{HERE}:never", "gate": True, "tasks": ["strict"]},
        {"use": f"{HERE}:polite", "weight": -2.0},
    )
    try:
        strict, free = rewards.score([group("please", task="strict"), group("please", task="free")])
    finally:
        rewards.close()
    assert (strict.rewards, free.rewards) == ((-1.0,), (-3.0,))


def test_a_prompt_that_does_not_fit_is_told_with_its_component():
    rewards = stack(
        {"use": "format", "tasks": ["talk"]},
        {"use": "math", "tasks": ["sums"]},
        {"use": "code_tests", "tasks": ["sums"], "weight": 0.0},
    )
    try:
        assert rewards.why_unfit(Prompt("x", "p", (), task="talk")) is None
        assert rewards.why_unfit(Prompt("x", "p", (), answer=1, task="sums")) is None  # only logged: no tests needed
        why = rewards.why_unfit(Prompt("x", "p", (), task="sums"))
        assert why == "rewards.components[1] (math_answer) cannot judge it: it has no reference answer"
        assert rewards.why_unfit(Prompt("x", "p", ())) == "no component of rewards.components judges its task ''"
    finally:
        rewards.close()


def test_no_component_at_all_is_an_error():
    with pytest.raises(InputError, match="is empty"):
        stack()
