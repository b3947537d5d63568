"""Unscored responses: one bad sample never ends a run, many do, and the file of them can be scored again."""

import json
from contextlib import closing

import pytest

from evolpo.recipes.runs.samples import read_samples
from evolpo.recipes.score import ScoreConfig, score
from evolpo.rewards import RewardError, RewardsConfig, RewardSpec, RewardStack
from evolpo.rewards.service.config import ServiceConfig
from evolpo.rewards.unscored import FLOOR, WINDOW, Failure, UnscoredResponses
from evolpo.rewards.values import Score
from evolpo.rl.advantages import group_advantages
from evolpo.rl.data import Group, Prompt, Response

BAD = (Failure("judge", "judges:judge", False, Score(None, "timeout", artifacts={"error": "no result"})),)
NOT_MINE = (Failure("judge", "judges:judge", False, Score(None, "skipped")),)


def group_of(*texts, name="p"):
    responses = tuple(Response((7,) * (len(text) + 1), text, (0.0,) * (len(text) + 1), "stop") for text in texts)
    return Group(Prompt(name, f"question {name}", (1,), "4", "easy", {"entry": [1, 2]}), responses)


def added(unscored, *failures):
    unscored.add([group_of(*"x" * len(failures))], list(failures))


def test_one_bad_response_in_every_step_of_16_ends_a_run_only_when_the_share_is_high():
    unscored = UnscoredResponses(0.1)
    for _ in range(200):
        added(unscored, BAD, *[()] * 15)
    unscored = UnscoredResponses(0.05)
    for _ in range(FLOOR):
        added(unscored, BAD, *[()] * 15)
    with pytest.raises(RewardError, match=r"9 of the last 144 responses have no reward"):
        added(unscored, BAD, *[()] * 15)


def test_the_window_forgets():
    unscored = UnscoredResponses(0.005)
    for _ in range(5):
        added(unscored, *[BAD] * FLOOR, *[()] * (WINDOW - FLOOR))
    with pytest.raises(RewardError, match=r"judge failed on 9 \(first timeout: no result\)"):
        added(unscored, *[BAD] * (FLOOR + 1), *[()] * (WINDOW - FLOOR - 1))


def test_small_steps_end_a_run_when_nothing_works_but_not_when_nothing_applies():
    with pytest.raises(RewardError, match=r"2 of the last 2"):
        added(UnscoredResponses(0.05), BAD, BAD)
    unscored = UnscoredResponses(0.05)
    added(unscored, NOT_MINE, NOT_MINE)
    assert unscored.last.startswith("2 of 2 responses have no reward (judge: skipped: no component has anything to say")
    with pytest.raises(RewardError, match=r"10 of the last 10 .* judge failed on 10 \(first skipped"):
        added(unscored, *[NOT_MINE] * 8)


def test_none_allowed_and_all_allowed():
    with pytest.raises(RewardError, match=r"1 of the last 2 responses"):
        added(UnscoredResponses(0.0), BAD, ())
    added(UnscoredResponses(1.0), BAD, BAD)


def spec(use, **fields):
    return RewardSpec(use=f"reward_plugins:{use}", **fields)


def test_unscored_rows_are_masked_counted_and_written(tmp_path):
    config = RewardsConfig([spec("plain"), spec("isolated_group", weight=0.5)], service=ServiceConfig(retries=0))
    with closing(RewardStack(config)) as stack:
        stack.unscored.file = tmp_path / "run" / "unscored.jsonl"
        groups = [group_of("good", "raise", "true", name="a"), group_of("good", "true", name="b")]
        scored = stack.score(groups)
        assert scored[0].rewards == (None, None, None)  # The group reward fails as a whole.
        assert scored[1].rewards == (0.75, 1.5)
        assert group_advantages(scored, "group_no_std")[0] == [None] * 3
        assert stack.last_metrics["reward/unscored"] == 3 / 5
        assert "3 of 5 responses have no reward" in stack.unscored.last
    lines = [json.loads(line) for line in stack.unscored.file.read_text().splitlines()]
    assert [line["response"] for line in lines] == ["good", "raise", "true"]
    reasons = [failure["reason"] for failure in lines[1]["failures"]]
    assert [reason.split(" (")[0] for reason in reasons] == ["infra_error: KeyError: 'no such thing'"] * 2
    samples, names = read_samples(stack.unscored.file)
    assert (samples[1].answer, samples[1].metadata, samples[1].token_ids) == ("4", {"entry": [1, 2]}, (7,) * 6)
    assert len(set(names)) == 1
    again = score(ScoreConfig(use="reward_plugins:plain", file=str(stack.unscored.file)))
    assert [one.status for one in again.scores] == ["ok", "infra_error", "ok"]


def test_components_that_say_nothing_leave_a_row_unscored_only_together():
    with closing(RewardStack(RewardsConfig([spec("plain"), spec("not_for_me", weight=2.0)]))) as stack:
        [scored] = stack.score([group_of("good", "none", "true")])
        assert scored.rewards == (0.5, None, 1.0)
        assert stack.last_metrics["reward/unscored"] == 1 / 3


def test_a_gate_that_says_nothing_lets_pass():
    with closing(RewardStack(RewardsConfig([spec("not_for_me", gate=True), spec("plain")]))) as stack:
        [scored] = stack.score([group_of("good", "true")])
        assert scored.rewards == (0.5, 1.0)
