import time
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from evolpo import InputError
from evolpo.rewards import RewardError, RewardsConfig, RewardSpec, RewardStack
from evolpo.rewards.service.config import ServiceConfig
from evolpo.rewards.service.workers import hold_pool, release_pool
from evolpo.rl.data import Group, Prompt, Response


@pytest.fixture(scope="module", autouse=True)
def _warm_workers():
    """Every stack of this file finds the workers of the one before."""
    hold_pool()
    yield
    release_pool()


def group_of(*texts, name="p"):
    responses = tuple(Response(tuple(range(len(text))), text, (0.0,) * len(text), "stop") for text in texts)
    return Group(Prompt(name, f"question {name}", (1,)), responses)


def spec(use, **fields):
    return RewardSpec(use=f"reward_plugins:{use}", **fields)


def number(index, **fields):
    return spec("number_at", options={"index": index}, **fields)


def score(components, groups, **fields):
    with closing(RewardStack(RewardsConfig(components, **fields))) as stack:
        return stack.score(groups), stack.last_metrics


def test_weights_and_breakdown():
    groups = [group_of("1,2", "3,-4", name="a"), group_of("0.5,0", name="b")]
    scored, metrics = score([number(0, weight=2.0), number(1, weight=0.5)], groups)
    assert [group.rewards for group in scored] == [(3.0, 4.0), (1.0,)]
    assert scored[0].breakdown == ({"number_at": 1.0, "number_at_2": 2.0}, {"number_at": 3.0, "number_at_2": -4.0})
    assert [(group.prompt, group.responses) for group in scored] == [(g.prompt, g.responses) for g in groups]
    assert groups[0].rewards == ()
    assert metrics["reward/number_at/mean"] == 1.5
    assert metrics["reward/number_at_2/mean"] == pytest.approx(-2 / 3)
    assert metrics["reward/number_at/unscored"] == 0.0
    assert 0 < metrics["reward/number_at/seconds_p50"] <= metrics["reward/number_at/seconds_p99"] < 1


def test_weight_zero_is_only_logged():
    [scored], metrics = score([number(0), number(1, weight=0.0)], [group_of("1,x", "2,3")])
    assert scored.rewards == (1.0, 2.0)
    assert scored.breakdown[0]["number_at_2"] is None
    assert metrics["reward/number_at_2/unscored"] == 0.5


def test_closed_gate_skips_what_follows():
    components = [number(0, gate=True), spec("Counted")]
    with closing(RewardStack(RewardsConfig(components))) as stack:
        [scored] = stack.score([group_of("1", "0", "-2")])
        counted = stack._components[1].reward
    assert scored.rewards == (2.0, 0.0, -2.0)
    assert [row["counted"] for row in scored.breakdown] == [1.0, None, None]
    assert counted.calls == [1]
    assert stack.last_metrics["reward/counted/mean"] == 1.0


def test_gate_that_stays_unscored_leaves_no_reward():
    [scored], _ = score([number(0, gate=True, weight=0.0), number(1)], [group_of("x,1", "1,1")], max_unscored=0.5)
    assert scored.rewards == (None, 1.0)


def test_group_reward_sees_one_whole_group():
    components = [number(0, gate=True, weight=0.0), spec("shortest")]
    groups = [group_of("1", "1    ", "0", name="a"), group_of("0", "0", name="b"), group_of("1  ", name="c")]
    scored, metrics = score(components, groups)
    assert [group.rewards for group in scored] == [(1.0, 0.0, 0.0), (0.0, 0.0), (1.0,)]
    assert [row["shortest"] for row in scored[0].breakdown] == [1.0, 0.0, None]
    assert metrics["reward/shortest/mean"] == pytest.approx(2 / 3)


def plain_reward(values, weights, gates):
    """The definition, front to back: what follows a passed gate adds at least nothing."""
    if not values:
        return 0.0
    own = weights[0] * values[0]
    if not gates[0]:
        return own + plain_reward(values[1:], weights[1:], gates[1:])
    return own + max(0.0, plain_reward(values[1:], weights[1:], gates[1:])) if values[0] > 0 else own


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_reward_is_its_definition_and_passing_a_gate_never_lowers_it(data):
    count = data.draw(st.integers(1, 4))
    numbers = st.integers(-3, 3).map(float)
    gates = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    weights = [abs(w) if g else w for w, g in zip(data.draw(st.lists(numbers, min_size=count)), gates, strict=False)]
    values = data.draw(st.lists(numbers, min_size=count, max_size=count))
    gate = data.draw(st.integers(0, count - 1))
    closed, passed = [*values], [*values]
    closed[gate], passed[gate] = -abs(values[gate]), abs(values[gate]) + 1

    components = [
        spec(data.draw(st.sampled_from(["number_at", "group_number_at"])), weight=w, gate=g, options={"index": i})
        for i, (w, g) in enumerate(zip(weights, gates, strict=True))
    ]
    rows = [values, closed, passed]
    [scored], _ = score(components, [group_of(*(",".join(map(str, row)) for row in rows))])
    assert scored.rewards == pytest.approx([plain_reward(row, weights, gates) for row in rows])
    if gates[gate]:
        assert scored.rewards[2] >= scored.rewards[1]


def test_too_many_unscored_end_the_run():
    groups = [group_of(*["0.5"] * 7, *["raise"] * 5, name=name) for name in "ab"]
    with pytest.raises(RewardError) as caught:
        score([spec("plain"), spec("shortest")], groups)
    message = str(caught.value)
    assert "10 of the last 24 responses have no reward, more than rewards.max_unscored=0.05" in message
    assert "plain failed on 10 (first infra_error: KeyError: 'no such thing'" in message


def test_few_unscored_become_none():
    scored, metrics = score([spec("plain")], [group_of(*["0.5"] * 9, "raise")], max_unscored=0.1)
    assert scored[0].rewards == (0.5,) * 9 + (None,)
    assert scored[0].breakdown[9] == {"plain": None}
    assert metrics["reward/plain/unscored"] == 0.1
    assert metrics["reward/plain/mean"] == 0.5


def test_timeout_becomes_none_and_the_rest_is_scored():
    [scored], metrics = score([spec("isolated")], [group_of("good", "hang", "true")], max_unscored=0.5)
    assert scored.rewards == (0.5, None, 1.0)
    assert metrics["reward/isolated/seconds_p99"] == pytest.approx(0.5, abs=0.3)


@pytest.mark.parametrize(("failures", "retries", "scored"), [(1, 1, True), (1, 0, False), (2, 1, False), (2, 2, True)])
def test_retries(failures, retries, scored):
    components = [spec("Counted", options={"failures": failures})]
    with closing(
        RewardStack(RewardsConfig(components, service=ServiceConfig(retries=retries, backoff_s=0.01)))
    ) as stack:
        if scored:
            assert stack.score([group_of("a", "b")])[0].rewards == (1.0, 1.0)
            assert stack.last_metrics["reward/counted/calls"] == failures + 1
        else:
            with pytest.raises(RewardError, match=r"counted failed on 2 \(first infra_error: ConnectionError: judge"):
                stack.score([group_of("a", "b")])


def test_hand_written_reward_with_wrong_results():
    with pytest.raises(RewardError, match=r"unruly\.score\(\) must return one Score a sample"):
        score([spec("Unruly")], [group_of("a")])


def test_stack_is_used_step_after_step():
    with closing(RewardStack(RewardsConfig([spec("coroutine"), spec("isolated")]))) as stack:
        for _ in range(2):
            assert stack.score([group_of("a", "b")])[0].rewards == (1.0, 1.0)
        assert stack.score([]) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"components": [RewardSpec("math"), RewardSpec()]}, "rewards.components[1].use: is empty"),
        ({"components": [RewardSpec("math", weight=float("nan"))]}, "rewards.components[0].weight: nan"),
        ({"components": [RewardSpec("math", weight=-1.0, gate=True)]}, "rewards.components[0].weight: -1.0"),
        ({"max_unscored": 1.5}, "rewards.max_unscored: 1.5"),
        ({"timeout_s": 0.0}, "rewards.timeout_s: 0.0"),
    ],
)
def test_config_checks(fields, message):
    with pytest.raises(InputError) as caught:
        RewardsConfig(**fields)
    assert str(caught.value).startswith(message)


def test_stack_needs_components_that_exist():
    with pytest.raises(InputError, match=r"^rewards\.components: is empty"):
        RewardStack(RewardsConfig())
    with pytest.raises(InputError, match=r"^rewards\.components\[1\]\.use: .* no attribute 'absent'"):
        RewardStack(RewardsConfig([spec("plain"), spec("absent")]))


def test_config_from_yaml():
    text = "components: [{use: math, weight: 2}, {use: 'my:own', gate: true, options: {a: 1}}]\nservice: {retries: 0}"
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RewardsConfig), OmegaConf.create(text)))
    assert config == RewardsConfig(
        [RewardSpec("math", 2.0), RewardSpec("my:own", gate=True, options={"a": 1})], service=ServiceConfig(retries=0)
    )


def test_groups_are_scored_while_others_are_still_being_made():
    """The judge of the first group takes its second while the other group is being sampled."""
    with closing(RewardStack(RewardsConfig([spec("slow_judge")]))) as stack:
        first, second = group_of("a", "b", name="first"), group_of("b", "a", name="second")
        scoring = stack.begin()
        started = time.perf_counter()
        scoring.add(second)
        time.sleep(1.0)
        scoring.add(first)
        scored = scoring.result([first, second])
        assert time.perf_counter() - started < 2.8  # 3 s if each waited for the other
    assert [group.rewards for group in scored] == [(0.0, 1.0), (1.0, 0.0)]
