"""The reward of instructions: shares, all or nothing, loose readings, thoughts, files that `evolpo score` reads."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolpo import InputError
from evolpo.recipes.score import ScoreConfig, score
from evolpo.rewards.instructions.reward import instructions_followed, readings
from evolpo.rewards.registry import load_reward
from evolpo.rewards.testing import check_reward, make_sample
from evolpo.rewards.thoughts import without_thoughts

NAMES = ["punctuation:no_comma", "length_constraints:number_words", "length_constraints:number_sentences"]
KWARGS = [{}, {"num_words": 4, "relation": "at least"}, {"num_sentences": 2, "relation": "less than"}]
METADATA = {"instruction_id_list": NAMES, "kwargs": KWARGS}


def sample(text, **metadata):
    return make_sample(text=text, answer=None, metadata={**METADATA, **metadata})


def scores(*texts, **options):
    reward = load_reward("instructions", "use", options)
    return asyncio.run(reward.score([sample(text) for text in texts]))


def test_the_share_and_its_metrics():
    [right, partly] = scores("We walk home now.", "Yes, now.")
    assert (right.value, right.status, right.artifacts) == (1.0, "ok", {})
    assert right.metrics == {"followed": 1.0, "all": 1.0, "punctuation": 1.0, "length_constraints": 1.0}
    assert partly.value == pytest.approx(1 / 3)
    assert partly.metrics == {"followed": 1 / 3, "all": 0.0, "punctuation": 0.0, "length_constraints": 0.5}
    assert partly.artifacts == {"not_followed": NAMES[:2]}


def test_all_or_nothing():
    assert [one.value for one in scores("We walk home now.", "We walk, home now.", "", mode="all")] == [1.0, 0.0, 0.0]


def test_thoughts_do_not_count():
    texts = [
        "<think>Well, I must not use commas, must I. Hm.</think>\n\nWe walk home now.",
        "Well, well.</think>We walk home now.",
        "<think>one</think>",
        "<think>We walk home now.",
    ]
    assert [one.value for one in scores(*texts[:3])] == [1.0, 1.0, 0.0]
    [endless] = scores(texts[3])
    assert (endless.value, endless.status, endless.error) == (0.0, "model_fail", "its thoughts have no end")


@pytest.mark.parametrize(
    "text",
    ["Sure, here it is:\nWe walk home now.", "We walk home now.\nAny questions, sir?", "*Ha,*\nWe walk home *now*.\n,"],
)
def test_loose_readings(text):
    [strict], [loose] = scores(text), scores(text, loose=True)
    assert strict.value is not None
    assert strict.value < loose.value == 1.0


@given(st.text(st.sampled_from("a*\n ")))
def test_the_eight_readings_of_the_paper(text):
    lines = text.split("\n")
    parts = [text, "\n".join(lines[1:]).strip(), "\n".join(lines[:-1]).strip(), "\n".join(lines[1:-1]).strip()]
    assert set(readings(text)) == {*parts, *(one.replace("*", "") for one in parts)}
    assert readings(text)[0] == text


def test_a_response_of_nothing_follows_nothing_loosely():
    assert [one.value for one in scores("", "\n", "**", loose=True)] == [0.0, 0.0, pytest.approx(2 / 3)]


def test_it_keeps_the_protocol():
    texts = ["", "We walk home now.", "今天天气很好，我们去河边散步。", "<think>", "a\ud800"]
    check_reward(instructions_followed, [sample(text) for text in texts])


def test_a_row_without_instructions_is_no_zero():
    [one] = asyncio.run(instructions_followed.score([make_sample(text="a", answer=None)]))
    assert (one.value, one.status) == (None, "infra_error")
    assert "it has no instructions" in one.error


def test_options_are_checked():
    with pytest.raises(InputError, match=r"options\.mode: 'some' is no "):
        load_reward("instructions", "use", {"mode": "some"})


def test_score_reads_its_files(tmp_path, capsys):
    rows = [{"prompt": "Go.", "response": "We walk home now.", **METADATA}]
    truth = json.dumps({"func_name": "validate_lowercase", "N": None})
    rows.append({"prompt": "Hm.", "response": "THE RIVER RUNS PAST THE MILL", "answer": truth})
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score(ScoreConfig("instructions", str(path))).values == [1.0, 0.0]
    assert "instructions_followed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("a", "a"),
        ("<think>b</think>a", "a"),
        ("b</think>a", "a"),
        ("<think>b</think>c<think>d</think>a", "a"),
        ("<|channel|>analysis<|message|>b<|channel|>final<|message|>a", "a"),
        ("<think>b", None),
        ("<think>b</think><think>c", None),
        ("", ""),
    ],
)
def test_without_thoughts(text, rest):
    assert without_thoughts(text) == rest
