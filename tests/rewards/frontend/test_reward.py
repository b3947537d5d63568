import asyncio
import json

import pytest
from documents import ATTACKS, COUNTER, DEAD_COUNTER

from evolpo import InputError
from evolpo.rewards import load_reward
from evolpo.rewards.base import Reward
from evolpo.rewards.frontend.checklist import CHECKLIST
from evolpo.rewards.frontend.reward import Frontend
from evolpo.rewards.judges.judge import Reply
from evolpo.rewards.testing import check_reward, make_sample


def sample(html, **metadata):
    return make_sample(text=f"Here is the page.\n\n```html\n{html}\n```\n", metadata=metadata)


CHECKS = [
    {"steps": [{"click": "#up"}], "expect": [{"text": ["#count", "1"]}]},
    {"steps": [{"click": "#up"}], "expect": [{"text": ["#count", "2"]}]},
]


def score(reward, *samples):
    return asyncio.run(reward.score(samples))


def test_stages_gate_each_other():
    good, checked, broken, poor = score(
        Frontend(0.4, 0.6, 0.0),
        sample(COUNTER),
        sample(COUNTER, checks=CHECKS),
        sample(COUNTER.replace("let count = 0", "let count = ")),
        sample(DEAD_COUNTER, checks=CHECKS),
    )
    assert (good.status, good.value) == ("ok", pytest.approx(1.0))
    assert good.metrics["function_controls"] == 1.0
    assert good.artifacts["controls"] == {"0 button Reset": "works", "1 button Down": "works", "2 button Up": "works"}
    assert len(good.artifacts["screenshots"]) == 3
    assert checked.value == pytest.approx(0.4 + 0.6 * 0.5)
    assert (checked.metrics["checks"], checked.artifacts["checks"][0]) == (0.5, "passed")
    assert (broken.status, broken.value) == ("model_fail", 0.0)
    assert broken.error.startswith("syntax: js, line ")
    assert "function" not in broken.metrics
    assert poor.value == pytest.approx(0.4)  # Syntax alone: no check passed.
    assert poor.error == "function: 0.00 is below 0.5"


def test_responses_that_leave_nothing_to_judge():
    blank, nothing = check_reward(Frontend(), [sample(ATTACKS["blank"]), make_sample(text="I would rather not.")])
    assert (blank.status, blank.error) == ("model_fail", "function: the page is blank")
    assert (nothing.status, nothing.error) == ("model_fail", "no HTML or SVG document in the response")


def test_aesthetics_come_last():
    good, dead = score(Frontend(), sample(COUNTER), sample(DEAD_COUNTER))
    assert good.metrics["aesthetics"] > 0
    assert good.value == pytest.approx(0.2 + 0.4 + 0.4 * good.metrics["aesthetics"])
    assert dead.metrics["function_controls"] == 0.0
    assert dead.value < good.value


class Eyes:
    """A judge that ticks half of the checklist and keeps what it was shown."""

    def __init__(self):
        self.images = []

    async def ask(self, messages):
        self.images.append(messages[-1].images)
        return Reply(json.dumps({name: index % 2 == 0 for index, name in enumerate(CHECKLIST)}))


def test_judge_sees_three_screenshots():
    eyes = Eyes()
    [good] = score(Frontend(judge=eyes), sample(COUNTER))
    assert [len(images) for images in eyes.images] == [3]
    assert good.metrics["aesthetics_checklist"] == 0.5
    assert good.metrics["aesthetics"] == pytest.approx((6 + good.metrics["aesthetics_computed"]) / 13)


def test_broken_checks_are_no_zero():
    [broken] = score(Frontend(0.5, 0.5, 0.0), sample(COUNTER, checks=[{"expect": []}]))
    assert (broken.value, broken.status) == (None, "infra_error")
    assert "metadata.checks[0].expect: is empty" in broken.error


def test_loading(monkeypatch):
    use = "evolpo.rewards.frontend.reward:Frontend"
    assert isinstance(load_reward(use, "use"), Reward)
    with pytest.raises(InputError, match="must not be negative and must add up to 1"):
        load_reward(use, "use", {"syntax_weight": 1.0})
    with pytest.raises(InputError, match=r"deadline_s 0\.0 is no deadline"):
        load_reward(use, "use", {"deadline_s": 0})
    monkeypatch.setenv("EVOLPO_CHROMIUM", "/no/such")
    with pytest.raises(InputError, match="apt-get install chromium"):
        load_reward(use, "use")
