import pytest

from evolpo.rewards.format import boxed_format, instant_format
from evolpo.rewards.testing import check_reward, make_sample


@pytest.mark.parametrize(
    ("text", "value"),
    [("<think>hm</think> 4", -0.5), ("hm <think>", -0.5), ("I think 4", 0.0), ("</think>", 0.0), ("", 0.0)],
)
def test_instant_format(text, value):
    [score] = check_reward(instant_format, [make_sample(text=text)])
    assert score.value == value


@pytest.mark.parametrize(
    ("text", "truncated", "value"),
    [
        (r"so \boxed{4}", False, 1.0),
        (r"so \boxed{4}", True, 0.0),
        (r"\boxed{4} or \boxed{5}", False, 0.0),
        (r"\boxed{ }", False, 0.0),
        (r"\boxed{4", False, 0.0),
        ("4", False, 0.0),
    ],
)
def test_boxed_format(text, truncated, value):
    [score] = check_reward(boxed_format, [make_sample(text=text, truncated=truncated)])
    assert score.value == value
