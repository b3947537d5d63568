import itertools

import pytest
import reward_plugins

from evolpo.rewards import Score, sample_reward
from evolpo.rewards.testing import check_reward, make_sample


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
        (reward_plugins.isolated, "hang", "isolated: timeout on 'hang': no result within 0.5 s"),
        (reward_plugins.Unruly(), "", "unruly: 1.0 is no Score"),
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
