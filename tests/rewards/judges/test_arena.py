import asyncio
import json
import random
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_server import Answer, ask_behind, judge_server
from scipy import stats

from evolpo import InputError
from evolpo.rewards.judges.arena import GroupArena, pair_messages
from evolpo.rewards.judges.judge import JudgeError, JudgeTimeoutError, Reply, unfenced
from evolpo.rewards.judges.rubric import load_rubric
from evolpo.rewards.judges.rules import RuleJudge
from evolpo.rewards.registry import load_reward
from evolpo.rewards.stack import RewardsConfig, RewardSpec, RewardStack
from evolpo.rewards.testing import check_reward, make_sample
from evolpo.rl.data import Group, Prompt, Response


class PairJudge:
    """Decides by a function of the two texts; it may raise."""

    def __init__(self, decide):
        self.decide = decide
        self.asked = Counter()

    async def ask(self, messages):
        shown = unfenced(messages[1].text)
        pair = shown["RESPONSE A"], shown["RESPONSE B"]
        self.asked[pair] += 1
        return Reply(json.dumps({"winner": self.decide(*pair)}), elapsed_s=0.5, prompt_tokens=9, completion_tokens=1)


def arena(judge, texts, **options):
    samples = [make_sample(prompt="Write.", answer=None, text=text) for text in texts]
    return asyncio.run(GroupArena(judge, **options).score(samples))


def values(scores):
    return [score.value for score in scores]


def longer(one, other):
    return "A" if len(one) > len(other) else "B" if len(one) < len(other) else "tie"


# -- golden values ------------------------------------------------------------------------------------------------


def test_a_round_robin_of_three_by_hand():
    table = {"xy": "A", "yx": "B", "yz": "B", "zy": "tie", "xz": "A", "zx": "A"}
    judge = PairJudge(lambda one, other: table[one + other])
    scores = arena(judge, ["x", "y", "z"])
    # x beats y in both orders; z beats y in one and ties in the other; of x and z each wins where it is shown first.
    x_y, y_z, x_z = 1.0, 0.25, 0.5
    assert values(scores) == [(x_y + x_z) / 2, (1 - x_y + y_z) / 2, (1 - x_z + 1 - y_z) / 2]
    assert len(judge.asked) == sum(judge.asked.values()) == 6
    assert scores[0].metrics == {
        "order_bias": 3 / 5,  # Five wins; the first shown won xy, xz and zx.
        "order_noise": 2 / 3,
        "cyclic": 0.0,
        "ties": 1 / 6,
        "left_out": 0.0,
        "judge_calls": 6.0,
        "judge_tokens": 60.0,
    }
    assert all(score.metrics == scores[0].metrics and score.elapsed_s == 1.0 for score in scores)


def test_a_judge_who_prefers_the_first_shown_gives_nobody_anything():
    for count in (2, 5, 8, 12):
        scores = arena(PairJudge(lambda one, other: "A"), [f"text {i}" for i in range(count)])
        assert values(scores) == pytest.approx([0.5] * count)
        assert (scores[0].metrics["order_bias"], scores[0].metrics["order_noise"]) == (1, 1)


def test_stone_scissors_paper_is_cyclic():
    beats = {("stone", "scissors"), ("scissors", "paper"), ("paper", "stone")}
    scores = arena(PairJudge(lambda one, other: "A" if (one, other) in beats else "B"), ["stone", "scissors", "paper"])
    assert values(scores) == [0.5] * 3
    metrics = scores[0].metrics
    assert (metrics["cyclic"], metrics["order_bias"], metrics["order_noise"]) == (1.0, 0.5, 0.0)


def test_ties_alone_have_no_order_bias():
    scores = arena(PairJudge(lambda one, other: "tie"), ["x", "y", "z"])
    assert values(scores) == [0.5] * 3
    assert "order_bias" not in scores[0].metrics
    assert scores[0].metrics["ties"] == 1.0


def test_equal_responses_tie_and_share_their_matches():
    judge = PairJudge(longer)
    scores = arena(judge, ["aaa", "aa", "aaa\n", "a", "aaa"])
    assert values(scores) == [(1 + 1 + 0.5 + 0.5) / 4, 1 / 4, 0.75, 0.0, 0.75]
    assert set(judge.asked) == {(x, y) for x in ("a", "aa", "aaa") for y in ("a", "aa", "aaa") if x != y}
    assert max(judge.asked.values()) == 1
    same = arena(judge, ["b", "b"])
    assert values(same) == [0.5, 0.5]
    assert same[0].metrics == {"judge_calls": 0.0, "judge_tokens": 0.0}


def test_empty_responses_lose_without_a_call():
    judge = PairJudge(longer)
    scores = arena(judge, ["a", "", "aa", " \n"])
    assert [(score.value, score.status) for score in scores] == [
        (2 / 3, "ok"),
        (0.0, "model_fail"),
        (1.0, "ok"),
        (0.0, "model_fail"),
    ]
    assert scores[1].error == "the response is empty"
    assert len(judge.asked) == 2
    assert [score.status for score in arena(judge, ["", ""])] == ["model_fail"] * 2
    assert values(arena(judge, ["a", ""])) == [1.0, 0.0]


def test_nobody_to_compete_with():
    assert arena("rules", []) == []
    [score] = arena("rules", ["alone"])
    assert (score.value, score.status) == (None, "infra_error")
    assert "sample more responses a prompt" in score.error


# -- properties ---------------------------------------------------------------------------------------------------

texts = st.lists(st.text(alphabet="ab ", min_size=1).filter(str.strip), min_size=2, max_size=11)


@settings(max_examples=40, deadline=None)
@given(texts, st.randoms(use_true_random=False), st.integers(0, 3))
def test_properties(responses, shuffler, seed):
    judge = RuleJudge(lambda text: text.count("a") / (len(text) + 1), error_rate=0.3, seed=seed)
    scores = values(arena(judge, responses, seed=seed))
    assert scores == values(arena(judge, responses, seed=seed))
    assert all(0 <= value <= 1 for value in scores)
    assert sum(scores) == pytest.approx(len(responses) / 2)
    order = list(range(len(responses)))
    shuffler.shuffle(order)
    assert values(arena(judge, [responses[i] for i in order], seed=seed)) == [scores[i] for i in order]


# -- above eight: anchors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "anchors"), [(8, 4), (9, 4), (16, 4), (16, 6), (9, 20)])
def test_calls(count, anchors):
    judge = PairJudge(longer)
    scores = arena(judge, ["a" * (i + 1) for i in range(count)], anchors=anchors)
    most = min(anchors, count)
    pairs = count * (count - 1) / 2 if count == 8 else most * (count - most) + most * (most - 1) / 2
    assert sum(judge.asked.values()) == scores[0].metrics["judge_calls"] == 2 * pairs
    assert max(judge.asked.values()) == 1
    assert sum(values(scores)) == pytest.approx(count / 2)


def test_anchors_rank_a_large_group():
    lengths = random.Random(5).sample(range(1, 100), 20)
    judge = PairJudge(longer)
    scores = values(arena(judge, ["a" * length for length in lengths], anchors=6))
    assert stats.spearmanr(scores, lengths).statistic > 0.9
    assert 0.8 < scores[lengths.index(max(lengths))] < 1
    opponents = {one: {other for first, other in judge.asked if first == one} for one, _ in judge.asked}
    anchors = {one for one in opponents if len(opponents[one]) == 19}
    assert len(anchors) == 6
    assert all(opponents[one] == anchors for one in opponents if one not in anchors)
    again, drawn_anew = PairJudge(longer), PairJudge(longer)
    arena(again, ["a" * length for length in lengths], anchors=6)
    arena(drawn_anew, ["a" * length for length in lengths], anchors=6, seed=1)
    assert again.asked == judge.asked != drawn_anew.asked


# -- failures -----------------------------------------------------------------------------------------------------


def failing(error, *bad):
    """Who is longer wins; pairs with one of the bad fail."""

    def decide(one, other):
        if one in bad or other in bad:
            raise error
        return longer(one, other)

    return PairJudge(decide)


@pytest.mark.parametrize(
    ("error", "status"), [(JudgeError("away"), "infra_error"), (JudgeTimeoutError("late"), "timeout")]
)
def test_a_response_without_half_its_matches_is_unscored(error, status):
    scores = arena(failing(error, "aaa"), ["a", "aa", "aaa", "aaaa"])
    assert values(scores) == [0.0, 0.5, None, 1.0]  # Two matches each; those with aaa are left out.
    assert scores[2].status == status
    assert scores[2].error == f"3 of 3 matches have no verdict; the first: {error}"
    assert scores[0].metrics["left_out"] == 0.5
    assert [score.status for score in arena(failing(error, "aa"), ["aa", "a"])] == [status] * 2
    assert [score.status for score in arena(failing(error, "aa"), ["aa", "a", "aaa"])] == [status, "ok", "ok"]


def test_half_the_matches_are_enough():
    def decide(one, other):
        if {one, other} in ({"a", "aa"}, {"a", "aaa"}):
            raise JudgeError("away")
        return longer(one, other)

    scores = arena(PairJudge(decide), ["a", "aa", "aaa", "aaaa", "aaaaa"])
    assert values(scores) == [0.0, 0.0, 1 / 3, 3 / 4, 1.0]
    assert all(score.status == "ok" for score in scores)


def test_one_order_alone_does_not_count():
    def decide(one, other):
        if (one, other) == ("x", "y"):
            raise JudgeError("away")
        return "A"  # Would otherwise give y a win over x that it has from its place.

    scores = arena(PairJudge(decide), ["x", "y", "z"])
    assert values(scores) == [0.5, 0.5, 0.5]
    assert scores[0].metrics["left_out"] == pytest.approx(1 / 3)


def test_failures_among_anchors():
    bad = "a" * 7
    scores = arena(failing(JudgeError("away"), bad), ["a" * (i + 1) for i in range(12)])
    assert [score.status for score in scores] == ["infra_error" if i == 6 else "ok" for i in range(12)]
    assert stats.spearmanr([score.value for score in scores if score.value is not None], range(11)).statistic > 0.8
    everything = arena(PairJudge(lambda one, other: "nobody"), ["a" * (i + 1) for i in range(12)], attempts=2)
    assert [score.status for score in everything] == ["infra_error"] * 12
    assert "no valid verdict in 2 answers; the last: winner: Input should be 'A', 'B' or 'tie'" in everything[0].error


def test_an_invalid_verdict_is_asked_for_again():
    tries = Counter()

    def decide(one, other):
        tries[one, other] += 1
        return longer(one, other) if tries[one, other] > 1 else "nobody"

    scores = arena(PairJudge(decide), ["a", "aa", "aaa"])
    assert values(scores) == [0.0, 0.5, 1.0]
    assert scores[0].metrics["judge_calls"] == 12


# -- configuration ------------------------------------------------------------------------------------------------


def test_a_rubric_guides_the_judge():
    sample = make_sample()
    plain, guided = (pair_messages(sample, "x", "y", rubric)[1].text for rubric in (None, load_rubric("writing")))
    assert "emotional_resonance" not in plain
    assert "- emotional_resonance (18%): Does the text make the reader feel" in guided
    assert unfenced(plain) == unfenced(guided)
    seen = []
    judge = PairJudge(longer)
    judge_ask = judge.ask

    async def ask(messages):
        seen.append(messages[-1].text)
        return await judge_ask(messages)

    judge.ask = ask
    assert values(arena(judge, ["a", "aa"], rubric="writing")) == [0.0, 1.0]
    assert all("emotional_resonance" in text for text in seen)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"judge": "rules", "anchors": 1}, "anchors: 1 say too little"),
        ({"judge": "rules", "attempts": 0}, "attempts: 0 asks nothing"),
        ({"judge": "rules", "rubric": "poetry"}, "there is no 'poetry'"),
        ({"judge": "arbiter"}, "judge: 'arbiter' is no judge"),
        ({}, "missing a required argument: 'judge'"),
    ],
)
def test_options_that_make_no_sense(options, error):
    with pytest.raises(InputError, match=r"^rewards\.components") as caught:
        load_reward("evolpo.rewards.judges.arena:GroupArena", "rewards.components[0].use", options)
    assert error in str(caught.value)


def test_the_reward_by_configuration_keeps_the_protocol():
    reward = load_reward("evolpo.rewards.judges.arena:GroupArena", "use", {"judge": "rules"})
    scores = check_reward(reward, [make_sample(text=" ".join(f"w{i}" for i in range(n))) for n in (3, 1, 2)])
    assert values(scores) == [1.0, 0.0, 0.5]


def test_in_a_stack_each_group_by_itself():
    def group(name, *words):
        responses = [Response((1,), " ".join(f"w{i}" for i in range(count)), (0.0,), "stop") for count in words]
        return Group(Prompt(name, f"Write {name}.", (1,)), tuple(responses))

    spec = RewardSpec("evolpo.rewards.judges.arena:GroupArena", weight=2.0, options={"judge": "rules"})
    stack = RewardStack(RewardsConfig([spec]))
    try:
        one, other = stack.score([group("one", 3, 1, 2), group("other", 10, 90)])
        assert (one.rewards, other.rewards) == ((2.0, 0.0, 1.0), (0.0, 2.0))
        assert stack.last_metrics["reward/group_arena/order_noise"] == 0
        assert stack.last_metrics["reward/group_arena/mean"] == 0.5
    finally:
        stack.close()


def test_behind_an_address_that_fails_now_and_then():
    texts_ = [f"quality 0.{i}" for i in (3, 1, 4, 2)]
    judge = RuleJudge(lambda text: float(text.split()[1]), error_rate=0.25)

    def answer(request, index):
        return Answer(b"{}", 503) if index % 5 == 0 else Answer(ask_behind(judge, request))

    with judge_server(answer) as server:
        options = {"base_url": server.base_url, "model": "m", "retries": 8, "concurrency": 4}
        scores = arena(options, texts_)
    assert values(scores) == values(arena(judge, texts_))
    assert scores[0].metrics["judge_tokens"] == 12 * 10
    assert server.most_running <= 4
    assert len(server.requests) > 12


# -- against independent scores of equal cost ---------------------------------------------------------------------


def mean_and_interval(values_):
    """Mean over groups and its 95% confidence interval (Student)."""
    interval = stats.ttest_1samp(values_, 0).confidence_interval(0.95)
    return float(np.mean(values_)), float(interval.low), float(interval.high)


def test_the_arena_ranks_better_than_independent_scores_of_equal_cost(capsys):
    """A judge who errs 25% of the time; 8 responses, 56 calls: 7 calls a response if each is judged alone.

    Judged alone, a call says whether the response is above a threshold drawn from the same distribution as the
    qualities, and is wrong 25% of the time: the same kind of answer (one bit) and the same rate of errors. That is
    what the arena must beat. The graded scores are for comparison: marks of 1 to 5 that are exact, but for 25% which
    are drawn from the five at random, either anew in each of the 7 calls, or once a response, as with a judge at
    temperature 0 who gives the same answer to the same question seven times.
    """
    groups, count, calls, error = 200, 8, 7, 0.25
    random_ = np.random.default_rng(11)
    judge = RuleJudge(lambda text: float(re.findall(r"[\d.]+", text)[0]), error_rate=error)
    found = {"arena": [], "thresholds": [], "marks anew": [], "marks once": []}
    made_calls = 0.0
    for _ in range(groups):
        quality = random_.random(count)
        scores = arena(judge, [f"quality {value:.17f}" for value in quality])
        made_calls += scores[0].metrics["judge_calls"]
        above = quality[:, None] > random_.random((count, calls))  # [response, call]
        votes = above ^ (random_.random((count, calls)) < error)
        marks = np.broadcast_to(1 + np.floor(5 * quality)[:, None], (count, calls))
        wrong = random_.random((count, calls)) < error
        noisy = np.where(wrong, random_.integers(1, 6, (count, calls)), marks)
        estimates = {
            "arena": values(scores),
            "thresholds": votes.mean(1),
            "marks anew": noisy.mean(1),
            "marks once": noisy[:, 0],
        }
        for name, estimate in estimates.items():
            constant = len(set(estimate)) == 1  # Says nothing about the order.
            found[name].append(0.0 if constant else stats.spearmanr(estimate, quality).statistic)
    figures = {name: mean_and_interval(column) for name, column in found.items()}
    with capsys.disabled():
        print("\nSpearman correlation with the truth, 200 groups of 8, 56 calls a group, 25% errors:")
        for name, (mean, low, high) in figures.items():
            print(f"  {name:<11} {mean:.3f} [{low:.3f}, {high:.3f}]")
    assert made_calls == groups * count * calls
    assert figures["arena"][1] > figures["thresholds"][2]
    assert figures["arena"][1] > figures["marks once"][2]
    paired = np.subtract(found["arena"], found["thresholds"])
    assert mean_and_interval(paired)[1] > 0.1
