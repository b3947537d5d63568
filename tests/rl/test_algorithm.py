"""From scored groups to rows."""

import pytest

from evolpo import InputError
from evolpo.rl.advantages import group_advantages, has_signal
from evolpo.rl.algorithm import AlgorithmConfig, build_batch
from evolpo.rl.data import Group, Prompt, Response
from evolpo.rl.losses import LOSSES


def response(length: int, truncated: bool = False) -> Response:
    return Response(tuple(range(length)), "", (-1.0,) * length, "length" if truncated else "stop")


def group(*rewards: float | None, truncated: int = -1) -> Group:
    responses = tuple(response(i + 1, i == truncated) for i in range(len(rewards)))
    return Group(Prompt("p", "", (1, 2)), responses, rewards)


def batch_of(groups: list[Group], mask_truncated: bool = False) -> list[tuple[int, int, float]]:
    units = [[[0] * len(r.token_ids) for r in g.responses] for g in groups]
    advantages = group_advantages(groups, "group_no_std")
    batch = build_batch(groups, units, advantages, mask_truncated=mask_truncated)
    return [(row.group, len(row.response_ids), row.advantage) for row in batch.rows]


def test_rows_keep_group_and_advantage() -> None:
    groups = [group(1.0, 0.0), group(0.5, 0.5)]
    assert batch_of(groups) == [(0, 1, 0.5), (0, 2, -0.5), (1, 1, 0.0), (1, 2, 0.0)]
    assert [has_signal(one) for one in groups] == [True, False]


def test_unscored_responses_are_left_out_of_baseline_and_batch() -> None:
    assert batch_of([group(1.0, None, 0.0)]) == [(0, 1, 0.5), (0, 3, -0.5)]


def test_truncated_responses_are_kept_or_masked_by_choice() -> None:
    groups = [group(1.0, 0.0, 0.0, truncated=1)]
    assert len(batch_of(groups)) == 3
    masked = batch_of(groups, mask_truncated=True)
    assert [length for _, length, _ in masked] == [1, 3]
    assert masked[0][2] == pytest.approx(2 / 3)  # the truncated one still counts in the baseline


def test_empty_clip_range_is_the_published_one() -> None:
    assert AlgorithmConfig().loss_options().clip_low is None
    assert (LOSSES["lpo"].default_clip_low, LOSSES["lpo"].default_clip_high) == (0.03, 0.03)  # type: ignore[attr-defined]
    assert (LOSSES["gspo"].default_clip_low, LOSSES["gspo"].default_clip_high) == (3e-4, 4e-4)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "ppo"), ("units", "word"), ("advantage", "gae"), ("correction", "magic"), ("kl_estimator", "k4")],
)
def test_unknown_names_are_named(field: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"^algorithm\.{field}: .*{value}"):
        AlgorithmConfig(**{field: value})  # type: ignore[arg-type]
