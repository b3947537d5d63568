import asyncio
import json

import pytest
from documents import ATTACKS, COUNTER, DEAD_COUNTER

from evolpo import InputError
from evolpo.rewards import load_reward
from evolpo.rewards.base import Reward
from evolpo.rewards.frontend.checklist import ASKED, CHECKLIST
from evolpo.rewards.frontend.reward import Frontend
from evolpo.rewards.judges.judge import Reply
from evolpo.rewards.testing import check_reward, make_sample

PROMPT = "A counter with buttons to count up and down and to reset it."


def sample(html, prompt=PROMPT, **metadata):
    return make_sample(prompt=prompt, text=f"Here is the page.\n\n```html\n{html}\n```\n", metadata=metadata)


CHECKS = [
    {"steps": [{"click": "#up"}], "expect": [{"text": ["#count", "1"]}]},
    {"steps": [{"click": "#up"}], "expect": [{"text": ["#count", "2"]}]},
]
PASSED = [{"expect": [{"visible": "h1"}]}]


def score(reward, *samples):
    return asyncio.run(reward.score(samples))


def test_stages_gate_each_other():
    good, checked, broken, poor = score(
        Frontend(0.4, 0.6, 0.0),
        sample(COUNTER, checks=PASSED),
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
    good, dead = score(Frontend(), sample(COUNTER, checks=PASSED), sample(DEAD_COUNTER, checks=PASSED))
    assert good.metrics["aesthetics"] > 0
    assert good.value == pytest.approx(0.2 + 0.4 + 0.4 * good.metrics["aesthetics"])
    assert dead.metrics["function_controls"] == 0.0
    assert dead.value < good.value


def test_without_evidence_a_score_is_capped_and_says_so():
    asked, other, nothing = score(
        Frontend(0.4, 0.6, 0.0),
        sample(COUNTER),
        sample(COUNTER, prompt="A calendar with a table of birthdays and a field to search for names."),
        sample(COUNTER, prompt="Please make a nice web page."),
    )
    assert (asked.value, nothing.value) == (pytest.approx(0.5 * asked.metrics["relevance"]), pytest.approx(0.5))
    assert asked.metrics["relevance"] > 0.7
    assert other.value < 0.1
    assert all(one.metrics["unverified"] == 1 for one in (asked, other, nothing))
    assert asked.artifacts["unverified"].startswith("unverified: no checks came with the prompt")
    assert {"calendar", "birthday", "a table", "a field"} <= set(other.artifacts["missing"])


class Eyes:
    """A judge that ticks half of the checklist and keeps what it was shown; `asked` says what else it finds true."""

    def __init__(self, asked=()):
        self.images, self.texts, self.asked = [], [], asked

    async def ask(self, messages):
        self.images.append(messages[-1].images)
        self.texts.append(messages[-1].text)
        half = {name: index % 2 == 0 for index, name in enumerate(CHECKLIST)}
        more = {name: name in self.asked for name in ASKED} if "asked_content" in messages[-1].text else {}
        return Reply(json.dumps(half | more))


def test_judge_sees_three_screenshots():
    eyes = Eyes(ASKED)
    [good] = score(Frontend(judge=eyes), sample(COUNTER))
    assert [len(images) for images in eyes.images] == [3]
    assert good.metrics["aesthetics_checklist"] == 0.5
    assert good.metrics["aesthetics"] == pytest.approx((6 + good.metrics["aesthetics_computed"]) / 13)


def test_a_judge_gives_evidence_where_no_checks_do():
    eyes = Eyes(list(ASKED)[:3])
    judged, checked = score(Frontend(judge=eyes), sample(COUNTER), sample(COUNTER, checks=PASSED))
    assert (judged.metrics["evidence"], judged.metrics["unverified"]) == (0.75, 0)
    assert judged.value == pytest.approx(0.2 + 0.4 * 0.75 + 0.4 * judged.metrics["aesthetics"])
    assert (checked.metrics["evidence"], checked.metrics["function"]) == (1, 1)
    [used] = [text for text in eyes.texts if "RECORD OF USE" in text]  # Checks come first: then it is not asked.
    assert "2 button Up: did something" in used
    [other] = score(Frontend(judge=Eyes()), sample(COUNTER))
    assert (other.value, other.error) == (pytest.approx(0.2), "function: 0.00 is below 0.5")


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
