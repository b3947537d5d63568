"""What a plugin puts into a score, and what it returns for a group: numbers, or a clear reason."""

import json
import math
import re

import numpy as np
import pytest

from evolpo.rewards import Score
from evolpo.rewards.values import group_results, plain_values, score_of


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": "1.0"}, "Score.value is str '1.0'; give a number"),
        ({"value": [1.0]}, "Score.value is list"),
        ({"value": np.ones(2)}, "Score.value is ndarray"),
        ({"value": math.nan}, "give a finite number"),
        ({"value": 1.0, "metrics": None}, "Score.metrics is NoneType None; give a mapping by name"),
        ({"value": 1.0, "metrics": [1]}, "Score.metrics is list"),
        ({"value": 1.0, "artifacts": "text"}, "Score.artifacts is str 'text'"),
        ({"value": 1.0, "elapsed_s": "soon"}, "Score.elapsed_s is str 'soon'"),
    ],
)
def test_a_score_is_made_of_numbers_and_mappings(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Score(**fields)


def test_what_is_no_finite_number_is_no_metric():
    odd = {"text": "x", "nan": math.nan, "inf": math.inf, "none": None, "list": [1], "two": 2, "half": np.float32(0.5)}
    got = score_of(Score(np.float32(1), metrics=odd))
    assert (got.metrics, got.value, type(got.value)) == ({"two": 2.0, "half": 0.5}, 1.0, float)


@pytest.mark.parametrize("results", [np.ones((3, 1)), [[1.0]] * 3, [(1.0, 2.0)] * 3, [{"score": 1.0}] * 3, ["1"] * 3])
def test_a_table_is_no_list_of_results(results):
    assert [(one.value, one.status) for one in group_results(results)] == [(None, "infra_error")] * 3


def test_what_a_reward_tells_is_written_as_json_has_it():
    told = {
        "controls": {"0 button": "dead"},
        "seen": ("a", 1, True),
        "picture": b"png",
        "empty": [],
        3: float("nan"),
        "odd": object(),
    }
    assert plain_values(told) == {"controls": {"0 button": "dead"}, "seen": ["a", 1, True]}
    deep = []
    for _ in range(50):
        deep = [deep, "x"]
    json.dumps(plain_values({"deep": deep}))
