"""Regular expressions: full match, search, patterns from the data, patterns that hang."""

import asyncio

import pytest

from evolpo.rewards.pattern import pattern_match
from evolpo.rewards.testing import make_sample


def score(*samples, timeout_s=20.0, **options):
    return asyncio.run(pattern_match.configured(timeout_s, options).score(samples))


def values(texts, **options):
    return [one.value for one in score(*(make_sample(text=text) for text in texts), **options)]


def test_full_match_and_search():
    texts = ["-12", " -12\n", "it is -12", "twelve", ""]
    assert values(texts, pattern=r"-?\d+") == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert values(texts, pattern=r"-?\d+", mode="search") == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert values(["Yes\nindeed", "no"], pattern=r"(?is)yes.*") == [1.0, 0.0]


def test_pattern_of_the_prompt():
    [right, wrong] = score(make_sample(text="colour", answer="colou?r"), make_sample(text="couleur", answer="colou?r"))
    assert (right.value, wrong.value) == (1.0, 0.0)
    assert right.artifacts == {"match": "colour"}


@pytest.mark.parametrize(
    ("answer", "options", "error"),
    [
        (None, {}, "there is no pattern"),
        ("4", {"pattern": "("}, "'(' is no regular expression: missing )"),
    ],
)
def test_broken_pattern_is_no_zero(answer, options, error):
    [got] = score(make_sample(answer=answer), **options)
    assert (got.value, got.status) == (None, "infra_error")
    assert error in got.error


def test_mode_that_there_is_not_is_refused_on_loading():
    with pytest.raises(ValueError, match=r"options\.mode: 'match' is no Literal\['full', 'search'\]"):
        score(make_sample(answer="4"), mode="match")


def test_pattern_that_hangs_stays_unscored():
    samples = [make_sample(text="a" * 60 + "b"), make_sample(text="aaa")]
    hung, good = score(*samples, pattern=r"(a+)+", timeout_s=3.0)
    assert (hung.value, hung.status) == (None, "timeout")
    assert good.value == 1.0


def test_one_of_several_patterns():
    sample = make_sample(text="yes", answer=["no", "ye."])
    assert pattern_match.function(sample).value == 1.0
    assert pattern_match.function(make_sample(text="maybe", answer=["no", "ye."])).value == 0.0
