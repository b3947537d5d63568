"""The report's charts of a fleet: they show what was measured, and are not there without one."""

from evolpo.recipes.report.fleet import ages, fleet_charts

RECORDS = [
    {
        "step": step,
        "staleness/token_mean": 0.5,
        "staleness/response_mean": 0.7,
        "staleness/response_max": 1.0,
        "logprob_gap/age_0": 1e-6,
        "logprob_gap/age_10": 0.3,
        "logprob_gap/age_2": 0.02,
        "correction/mean": 0.99,
        "correction/changed": 0.01 * step,
        "fleet/busy": 0.8,
        "fleet/live": 2.0,
        "fleet/deaths": 1.0,
    }
    for step in range(1, 4)
]


def test_what_was_measured_is_drawn() -> None:
    drawn = [chart for chart in fleet_charts(RECORDS) if chart is not None]
    assert [chart.title for chart in drawn] == [
        "Staleness",
        "Log-probability gap by age",
        "Correction",
        "Engines at work",
        "Engines",
    ]
    assert [name for name, *_ in drawn[1].legend] == ["age 0", "age 2", "age 10"]


def test_a_run_without_a_fleet_has_none() -> None:
    assert fleet_charts([{"step": 1, "correction/mean": 1.0}]) == []


def test_ages_rise() -> None:
    assert ages({"logprob_gap/age_10", "logprob_gap/age_2", "logprob_gap/mean"}) == [
        (2, "logprob_gap/age_2"),
        (10, "logprob_gap/age_10"),
    ]
