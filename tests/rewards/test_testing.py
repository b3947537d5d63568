import asyncio
import itertools

import pytest
import reward_plugins

from evolpo.rewards import Score, sample_reward
from evolpo.rewards.testing import check_failure, check_reward, hostile_samples, make_group, make_sample


def test_make_sample():
    assert make_sample().answer == "4"
    assert make_sample(text="x", truncated=True).truncated
    with pytest.raises(TypeError):
        make_sample(txet="x")


def test_good_rewards_pass():
    samples = [make_sample(), make_sample(text="", answer=None, truncated=True)]
    assert [score.value for score in check_reward(reward_plugins.wordy, samples)] == [0.0, 0.0]
    assert [score.value for score in check_reward(reward_plugins.shortest, samples)] == [1.0, 1.0]
    assert check_reward(reward_plugins.isolated, [make_sample(text="fail")])[0].status == "model_fail"


@pytest.mark.parametrize(
    ("reward", "text", "message"),
    [
        (reward_plugins.misbehave, "", "is no Reward"),
        (reward_plugins.plain, "raise", "plain: infra_error on 'raise': KeyError"),
        (reward_plugins.isolated, "hang", "isolated: timeout on 'hang': no result within .* s from isolated"),
        (reward_plugins.Unruly(), "", "one Score a sample: float is no Score"),
    ],
)
def test_bad_rewards_fail(reward, text, message):
    with pytest.raises(AssertionError, match=message):
        check_reward(reward, [make_sample(text=text)])


def test_determinism():
    counter = itertools.count()
    moody = sample_reward(lambda sample: next(counter))
    with pytest.raises(AssertionError, match=r"the same samples give \[0.0\], then \[1.0\]"):
        check_reward(moody, [make_sample()])
    assert check_reward(moody, [make_sample()], deterministic=False)


def test_wrong_length():
    class Short(reward_plugins.Counted):
        async def score(self, samples):
            return [Score(1.0)] * (len(samples) - 1)

    with pytest.raises(AssertionError, match="2 samples give 1 scores"):
        check_reward(Short(), [make_sample(), make_sample()])


def test_make_group():
    right, wrong, empty = make_group()
    assert right.prompt == wrong.prompt == empty.prompt
    assert [one.token_count for one in (right, wrong, empty)] == [3, 8, 0]
    assert [one.text for one in make_group("a b", "c", answer="x")] == ["a b", "c"]
    assert {one.answer for one in make_group("a b", "c", answer="x")} == {"x"}


def test_hostile_samples():
    texts = [sample.text for sample in hostile_samples()]
    assert len(set(texts)) == len(texts)
    assert "" in texts
    assert max(map(len, texts)) >= 200_000
    assert all(text.encode() is not None for text in texts)  # As a tokenizer would give them: no lone surrogates.
    assert {sample.answer for sample in hostile_samples(answer="5")} == {"5"}
    assert check_reward(reward_plugins.wordy, hostile_samples())
    fragile = sample_reward(lambda sample: sample.text.split()[0] == "so")
    with pytest.raises(AssertionError, match="infra_error on '': IndexError"):
        check_reward(fragile, hostile_samples())


def test_group_reward_wants_one_prompt():
    with pytest.raises(AssertionError, match=r"use make_group\(\)"):
        check_reward(reward_plugins.shortest, [make_sample(), make_sample(prompt="another")])
    assert [one.value for one in check_reward(reward_plugins.shortest, make_group())] == [0.0, 0.0, 1.0]


class Rank(reward_plugins.Counted):
    """A group reward that says it judges samples one by one."""

    name = "rank"

    async def score(self, samples):
        return [Score(float(index)) for index, _ in enumerate(samples)]


class Shared(reward_plugins.Counted):
    """Keeps what it works on in the object, so that two calls at once mix it up."""

    name = "shared"

    def __init__(self):
        self.running = 0

    async def score(self, samples):
        self.running += 1
        await asyncio.sleep(0)
        scores = [Score(float(self.running)) for _ in samples]
        self.running -= 1
        return scores


def test_order_and_concurrency():
    with pytest.raises(AssertionError, match="in another order; judge each sample by itself"):
        check_reward(Rank(), make_group())
    with pytest.raises(AssertionError, match="at the same time; keep no state between calls"):
        check_reward(Shared(), make_group())


def test_isolated_reward_that_no_process_can_take_over():
    local = sample_reward(isolate=True)(lambda sample: 1.0)
    with pytest.raises(AssertionError, match="define it at the top level of a module"):
        check_reward(local, [make_sample()])
    isolated = reward_plugins.isolated.configured(1.0, {})
    isolated.options = {"handle": lambda: 1}
    with pytest.raises(AssertionError, match=r"the options cannot be pickled: .* takes plain data only"):
        check_reward(isolated, [make_sample()])
    with pytest.raises(AssertionError, match="the samples cannot be pickled"):
        check_reward(reward_plugins.isolated, [make_sample(metadata={"handle": lambda: 1})])


@sample_reward
def needs_answer(sample):
    return float(sample.text == sample.answer.strip())


@sample_reward
def swallows_errors(sample):
    try:
        return float(sample.text == sample.answer.strip())
    except AttributeError:
        return 0.0


class AllOrNothing(reward_plugins.Counted):
    name = "all_or_nothing"

    async def score(self, samples):
        if any(sample.answer is None for sample in samples):
            return [Score.infra_error("no answer")] * len(samples)
        return [Score(1.0)] * len(samples)


def test_failure_stays_with_its_sample():
    broken = make_sample(answer=None)
    assert "AttributeError" in check_failure(needs_answer, broken, make_group()).error
    with pytest.raises(AssertionError, match=r"0\.0 \(ok\) for a sample it cannot judge; let the error out"):
        check_failure(swallows_errors, broken, make_group())
    with pytest.raises(AssertionError, match=r"\[1\.0, 1\.0, 1\.0\] became \[None, None, None\].*; fail one by one"):
        check_failure(AllOrNothing(), broken, make_group())
