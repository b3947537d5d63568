"""`evolpo bench rewards` for real, small: a judge over HTTP, workers that die; the plan of faults; figures by hand."""

import json
import random
from collections import Counter

import psutil
import pytest

from evolpo import InputError
from evolpo.recipes.bench.rewards import BenchRewardsConfig, bench_rewards, figures
from evolpo.recipes.bench.rewards_load import planned_faults, request_kinds
from evolpo.rewards.base import Score


def test_all_but_the_hopeless_are_scored_once(tmp_path):
    file = tmp_path / "bench" / "rewards.json"
    before = set(psutil.Process().children(recursive=True))
    config = BenchRewardsConfig(requests=300, hang=0.04, never=0.013, retries=2, overlap=False, output=str(file))
    report = bench_rewards(config)
    assert json.loads(file.read_text()) == report
    assert (report["requests"], report["lost"], report["duplicates"], report["wrong"]) == (300, 0, 0, 0)
    assert report["planned"] == {
        "hang first": 12,
        "crash first": 3,
        "refused first": 9,
        "hang always": 2,
        "crash always": 1,
        "refused always": 1,
    }
    assert report["unscored"] == {
        "answer hang timeout": 1,
        "judge hang timeout": 1,
        "answer crash infra_error": 1,
        "judge refused infra_error": 1,
    }
    assert report["unscored_unplanned"] == 0
    assert report["scored_share"] == pytest.approx(296 / 300)
    assert {name: stats["requests"] for name, stats in report["by_kind"].items()} == {
        "format": 135,
        "judge": 120,
        "answer": 45,
    }
    # First-try faults cost one retry, hopeless requests two; a busy machine may cost some more.
    assert sum(stats["retries"] for stats in report["by_kind"].values()) >= 12 + 3 + 9 + 4 * 2
    # All were there at once: those that did not get a slot at once waited together.
    slots = report["setting"]["service"]["resources"]
    queued = {name: stats["queued_max"] for name, stats in report["by_kind"].items()}
    assert max(queued["format"], queued["answer"]) == 135 + 45 - slots["process"]["concurrency"]
    assert queued["judge"] == 120 - slots["network"]["concurrency"]
    assert 0 < report["start_gb"] <= report["peak_gb"]
    assert report["seconds"] > 2 * config.judge_timeout_s
    assert set(psutil.Process().children(recursive=True)) <= before


def test_plan_is_exact_and_follows_the_seed():
    kinds = request_kinds(40_000, random.Random(0))
    assert Counter(kinds) == {"format": 18_000, "judge": 16_000, "answer": 6_000}
    faults = planned_faults(kinds, 400, 400, 1200, 20, random.Random(1))
    assert Counter((kinds[index], *fault) for index, fault in faults.items()) == {
        ("answer", "hang", False): 40,
        ("judge", "hang", False): 360,
        ("answer", "crash", False): 400,
        ("judge", "refused", False): 1200,
        ("answer", "hang", True): 5,
        ("judge", "hang", True): 5,
        ("answer", "crash", True): 5,
        ("judge", "refused", True): 5,
    }
    assert faults == planned_faults(request_kinds(40_000, random.Random(0)), 400, 400, 1200, 20, random.Random(1))
    assert faults != planned_faults(kinds, 400, 400, 1200, 20, random.Random(2))


def test_figures_by_hand():
    """Of six requests one is lost, one unscored as planned and one by accident, one is wrong, one was judged twice."""
    faults = {1: ("hang", True), 2: ("hang", False)}
    scores = {
        0: Score(0.0),
        1: Score(None, "timeout"),
        2: Score(None, "timeout"),
        3: Score(3.0),
        4: Score(5.0),
    }
    found = figures(["judge"] * 6, faults, scores, {0: 1, 3: 2, 4: 1})
    assert found == {
        "requests": 6,
        "scored_share": 0.5,
        "lost": 1,
        "duplicates": 1,
        "wrong": 1,
        "planned": {"hang always": 1, "hang first": 1},
        "unscored": {"judge hang timeout": 2},
        "unscored_unplanned": 1,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"requests": 0}, "requests: 0 is not positive"),
        ({"crash": 0.2}, "crash: 0.2 is no small share"),
        ({"judge_timeout_s": 0.0}, "judge_timeout_s: 0.0 is no deadline"),
    ],
)
def test_bad_fields(changes, message):
    with pytest.raises(InputError, match=message):
        BenchRewardsConfig(**changes)
