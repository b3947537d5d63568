"""Multiple-choice data in the shapes of public sets: the options stand below the question, the answer is a letter."""

import asyncio

import pytest
from test_rows import load

from evolpo import InputError
from evolpo.rewards.choice import choice_answer
from evolpo.rewards.testing import make_sample
from evolpo.rollout.data.options import letter_of, options_of, with_options

TEXTS = ["red", "green", "blue", "4"]
SHOWN = "Which one?\nA. red\nB. green\nC. blue\nD. 4"

SHAPES = {
    "MMLU": ({"question": "Which one?", "choices": TEXTS, "answer": 1}, "B"),
    "MMLU, the first": ({"question": "Which one?", "choices": TEXTS, "answer": 0}, "A"),
    "MMLU-Pro": ({"question": "Which one?", "options": TEXTS, "answer": "B", "answer_index": 1}, "B"),
    "ARC": ({"question": "Which one?", "choices": {"text": TEXTS, "label": list("ABCD")}, "answerKey": "B"}, "B"),
    "ARC, digits": (
        {"question": "Which one?", "choices": {"text": TEXTS, "label": list("1234")}, "answerKey": "2"},
        "B",
    ),
    "OpenBookQA": (
        {"question_stem": "Which one?", "choices": {"text": TEXTS, "label": list("ABCD")}, "answerKey": "C"},
        "C",
    ),
    "MedQA": (
        {"question": "Which one?", "options": dict(zip("ABCD", TEXTS, strict=True)), "answer": "4", "answer_idx": "D"},
        "D",
    ),
    "MedMCQA": (
        {"question": "Which one?", **dict(zip(("opa", "opb", "opc", "opd"), TEXTS, strict=True)), "cop": 2},
        "C",
    ),
    "C-Eval": ({"question": "Which one?", **dict(zip("ABCD", TEXTS, strict=True)), "answer": "A"}, "A"),
    "the text": ({"prompt": "Which one?", "options": TEXTS, "answer": "green"}, "B"),
    "objects": ({"prompt": "Which one?", "options": [{"label": x, "text": x} for x in TEXTS], "answer": "blue"}, "C"),
    "objects without labels": ({"prompt": "Which one?", "options": [{"text": x} for x in TEXTS], "answer": "C"}, "C"),
    "JSON in a text": ({"prompt": "Which one?", "choices": '["red", "green", "blue", "4"]', "answer": "(B)"}, "B"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape(name, tmp_path):
    row, letter = SHAPES[name]
    notes = []
    [problem] = load(tmp_path, row, notes=notes)
    assert problem.text == SHOWN
    assert problem.answer == letter
    assert problem.metadata["choices"] == dict(zip("ABCD", TEXTS, strict=True))
    assert any("read as choices" in note for note in notes)
    assert any("followed by the options" in note for note in notes)


def test_the_reward_takes_letter_and_text(tmp_path):
    [problem] = load(tmp_path, SHAPES["MMLU"][0])
    said = ["\\boxed{B}", "\\boxed{green}", "\\boxed{A}", "\\boxed{1}"]
    samples = [make_sample(text=text, answer=problem.answer, metadata=problem.metadata) for text in said]
    assert [one.value or 0.0 for one in asyncio.run(choice_answer.score(samples))] == [1, 1, 0, 0]


def test_what_the_question_shows_is_not_shown_again(tmp_path):
    row = {"question": SHOWN.replace("A. ", "(a) "), "choices": TEXTS, "answer": 1}
    [problem] = load(tmp_path, row)
    assert problem.text == row["question"]


def test_options_that_the_answer_is_none_of_are_other_data(tmp_path):
    row = {"question": "Which one?", "options": {"temperature": 1, "top": 2}, "answer": "5"}
    [problem] = load(tmp_path, row)
    assert (problem.text, problem.answer) == ("Which one?", "5")


@pytest.mark.parametrize("answer", [4, -1, "E", "purple", True])
def test_a_row_whose_answer_is_no_option_is_refused(tmp_path, answer):
    with pytest.raises(InputError, match=r"answer_column: .* line 2: .* names none of the options A, B, C, D; mend it"):
        load(tmp_path, SHAPES["MMLU"][0], {"question": "And which?", "choices": TEXTS, "answer": answer})


def test_a_row_without_options_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"line 2: has no options, or one that is empty"):
        load(tmp_path, SHAPES["MMLU"][0], {"question": "And which?", "choices": ["red", ""], "answer": 0})


def test_a_text_goes_before_a_place():
    row = {"options": ["3", "1", "2"]}
    assert letter_of("1", row) == "B"
    assert letter_of(1, row) == "B"
    assert letter_of("0", row) == "A"
    assert letter_of(2.0, row) == "C"


def test_no_options():
    assert options_of({"choices": ["one"]}) == {}
    assert options_of({"A": "x"}) == {}
    assert with_options("q", {"A": "x", "B": "y"}) == "q\nA. x\nB. y"
