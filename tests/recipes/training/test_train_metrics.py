"""Figures of a training step by difficulty."""

from evolpo.recipes.training.metrics import Timer, step_metrics
from evolpo.rl.curriculum import Right
from evolpo.rl.data import Group, Prompt, Response


def group(name: str, difficulty: str, lengths: list[int], values: list[float | None]) -> Group:
    return Group(
        Prompt(name, name, (1,), difficulty=difficulty),
        tuple(Response((5,) * length, "", (0.0,) * length, "stop") for length in lengths),
        tuple(values),
        tuple({"correct": value, "length": 1.0} for value in values),
    )


def test_lengths_and_accuracy_by_difficulty() -> None:
    groups = [
        group("a", "easy", [2, 4], [1.0, 0.0]),
        group("b", "easy", [6, 8], [1.0, 1.0]),
        group("c", "hard", [30, 10], [0.0, None]),
        group("d", "odd", [7, 7], [None, None]),
        group("e", "", [100, 100], [1.0, 1.0]),
    ]
    timer = Timer()
    for phase in ("rollout", "sync"):
        with timer(phase):
            pass
    units = [[[0] * len(response.token_ids) for response in one.responses] for one in groups]
    metrics = step_metrics(groups, units, timer, 1, Right())
    by_level = {key: value for key, value in metrics.items() if key.count("/") == 2 or key.startswith("accuracy/")}
    assert by_level == {
        "response/easy/tokens_mean": 5.0,
        "accuracy/easy": 0.75,
        "response/hard/tokens_mean": 20.0,
        "accuracy/hard": 0.0,
        "response/odd/tokens_mean": 7.0,
    }
