import math

import pytest

from evolpo.recipes.compare.stability import smoothed, stability, training_key

KEY = "reward/mean"


def records(rewards, **columns):
    """One record a step, from step 1; of every column the value of that step."""
    return [
        {"step": step, KEY: reward, "loss": 0.1} | {key: values[step - 1] for key, values in columns.items()}
        for step, reward in enumerate(rewards, 1)
    ]


def test_smoothing_starts_at_the_first_full_window():
    mean = smoothed(records([0.0, 0.0, 0.0, 0.0, 1.0, 0.5]), KEY)
    assert mean == {5: pytest.approx(0.2), 6: pytest.approx(0.3)}
    assert smoothed(records([0.2, 0.4]), KEY) == {2: pytest.approx(0.3)}
    assert smoothed([{"step": 0}], KEY) == {}


def test_steps_without_a_value_are_skipped():
    rows = records([1.0] * 3 + [None] * 4 + [0.0, 0.5])
    assert smoothed(rows, KEY) == {9: pytest.approx(0.7)}


def test_smoothing_sums_its_keys():
    rows = [{"step": step, "clip/low": 0.1, "clip/high": 0.2} for step in range(1, 6)]
    assert smoothed(rows, "clip/low", "clip/high") == {5: pytest.approx(0.3)}


def test_a_run_that_ends_below_half_of_its_best_has_collapsed():
    found = stability(records([0.8] * 10 + [0.0] * 4), KEY)
    # Windows of five: 0.8 up to step 10, then 0.64, 0.48, 0.32, 0.16.
    assert found.collapsed
    assert found.collapse == "reward below half of 0.80 from step 13 on"
    assert found.max_drawdown == pytest.approx(0.64)


def test_a_dip_that_passes_is_no_collapse():
    found = stability(records([0.8] * 10 + [0.0] * 5 + [0.8] * 10), KEY)
    assert not found.collapsed
    assert found.collapse == ""
    assert found.max_drawdown == pytest.approx(0.8)


def test_a_long_dip_is_a_collapse_though_it_passes():
    # A window is low from its third zero to its third last: as many windows as there are zeros.
    assert stability(records([0.8] * 10 + [0.0] * 10 + [0.8] * 10), KEY).collapsed
    assert not stability(records([0.8] * 10 + [0.0] * 9 + [0.8] * 10), KEY).collapsed


def test_a_run_that_never_earned_anything_has_not_collapsed():
    assert not stability(records([0.04] * 10 + [0.0] * 20), KEY).collapsed
    assert not stability(records([0.0] * 20), KEY).collapsed


@pytest.mark.parametrize("loss", [math.nan, math.inf, None])
def test_a_loss_that_is_not_finite_is_a_collapse(loss):
    rows = records([0.5] * 8)
    rows[6]["loss"] = loss
    assert stability(rows, KEY).collapse == "loss not finite at step 7"
    del rows[6]["loss"]  # as in a step that had nothing to train on
    assert not stability(rows, KEY).collapsed


def test_spread_is_of_changes_not_of_values():
    assert stability(records([0.1, 0.2, 0.3, 0.4]), KEY).reward_spread == pytest.approx(0)
    # Changes 1, -1, 1: their mean is 1/3, their squared deviations add up to 8/3.
    assert stability(records([0.0, 1.0, 0.0, 1.0]), KEY).reward_spread == pytest.approx(math.sqrt(8 / 3 / 2))


def test_clipping_ratios_and_gap():
    found = stability(
        records(
            [0.5] * 3,
            **{
                "clip/low": [0.0, 0.1, 0.2],
                "clip/high": [0.1, 0.1, 0.3],
                "ratio/max": [1.1, 3.0, 1.2],
                "ratio/min": [0.9, 0.8, 0.2],
                "logprob_gap/mean": [0.01, 0.02, 0.03],
                "logprob_gap/max": [0.1, 0.4, 0.2],
            },
        ),
        KEY,
    )
    assert (found.clip_mean, found.clip_max) == (pytest.approx(0.8 / 3), pytest.approx(0.5))
    assert (found.ratio_max, found.ratio_min) == (3.0, 0.2)
    assert (found.logprob_gap_mean, found.logprob_gap_max) == (pytest.approx(0.02), 0.4)


def test_gradient_spikes_are_measured_against_the_steps_before():
    norms = [1.0] * 30
    norms[2], norms[10], norms[20] = 50.0, 5.1, 4.9  # too early to tell, a spike, none
    assert stability(records([0.5] * 30, grad_norm=norms), KEY).grad_spikes == 1
    rising = [1.0] * 10 + [10.0] * 25
    # The median of the twenty steps before is 1 until the ten high ones are half of them, at (1 + 10) / 2.
    assert stability(records([0.5] * 35, grad_norm=rising), KEY).grad_spikes == 10
    assert stability(records([0.5] * 5, grad_norm=[1.0] * 5), KEY).grad_spikes is None


def test_what_was_not_logged_is_unknown():
    found = stability([{"step": 0, "time": 0.0}], KEY)
    assert not found.collapsed
    unknown = {key: value for key, value in vars(found).items() if key not in ("collapsed", "collapse")}
    assert set(unknown.values()) == {None}


def test_one_training_reward_serves_all_runs():
    rows = [{"step": 1, "reward/spread": 0.1, "reward/math/mean": 0.3, "reward/length/mean": 0.1, KEY: 0.4}]
    plain, dynamic = {"algorithm": {"max_refills": 0}}, {"algorithm": {"max_refills": 3}}
    assert training_key([(rows, plain), (rows, plain)]) == KEY
    assert training_key([(rows, plain), (rows, dynamic)]) == "reward/math/mean"
    assert training_key([([{"step": 1, "accuracy": 0.3}], dynamic)]) == "accuracy"
    assert training_key([]) == KEY
