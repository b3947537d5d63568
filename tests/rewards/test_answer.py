import asyncio
import time

import pytest
import reasoning_gym
from hypothesis import given
from hypothesis import strategies as st

from evolpo.rewards.answer import boxed_contents, extract_answer, math_answer, reasoning_gym_answer
from evolpo.rewards.answers.extract import says_nothing
from evolpo.rewards.testing import make_sample


def score(reward, *samples, **options):
    return asyncio.run(reward.configured(20.0, options).score(samples))


@pytest.mark.parametrize(
    ("text", "strict", "tolerant"),
    [
        (r"so \boxed{42}.", "42", "42"),
        (r"\boxed{1} no, \boxed{2}", "2", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{3}}", "3", "3"),
        (r"\boxed {7}", "7", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", r"\{1, 2\}"),
        (r"\boxed{\{}", r"\{", r"\{"),
        (r"\boxed{5} and \boxed{6", "5", "5"),
        (r"\boxed{6 and then \boxed{5}", "5", "5"),
        (r"{ \boxed{5} }", "5", "5"),
        (r"\boxed{5} \boxed{}", "5", "5"),
        (r"\boxed{$5$}", "5", "5"),
        (r"\boxed{\text{yes}}", "yes", "yes"),
        (r"\boxed{\text{a} + \text{b}}", r"\text{a} + \text{b}", r"\text{a} + \text{b}"),
        ("\\boxed{1 2\n3 4}", "1 2\n3 4", "1 2\n3 4"),
        (r"<answer>7</answer> or \boxed{8}", "8", "8"),
        ("<answer> 7 </answer>", "7", "7"),
        ("<answer>7</answer><answer>8</answer> <answer>9", "7, 8", "7, 8"),
        ("<answer></answer>", None, None),
        ("</answer> 1 <answer>", None, "1"),
        ("The answer is 42.", None, "42"),
        ("The answer is 3.14.", None, "3.14"),
        ("the answer is red. The final Answer: **blue whale**!", None, "blue whale"),
        ("**Answer:**\n17", None, "17"),
        ("The answer is $x+1$, of course", None, "x+1"),
        ("The answer isn't 4", None, None),
        ("First 3, then 1,234.50 dollars", None, "1234.50"),
        ("from 3-5", None, "5"),
        ("it is -7", None, "-7"),
        ("in the end 1/2", None, "1/2"),
        ("take 1, 2, 3", None, None),
        ("version v2 has no a1", None, None),
        ("it is \u22127", None, "-7"),  # Minus sign.
        ("it is \u20137 or so", None, "-7"),  # En dash.
        ("no idea", None, None),
        ("", None, None),
    ],
)
def test_extraction(text, strict, tolerant):
    assert extract_answer(text) == strict
    assert extract_answer(text, tolerant=True) == tolerant


@given(st.text(alphabet="ab1 ${}\\n", max_size=30), st.text(alphabet="ab1 +", min_size=1).filter(str.strip))
def test_last_box_is_found_behind_anything(before, content):
    assert extract_answer(f"{before} \\boxed{{{content}}}") == content.strip()


@given(st.text(alphabet="\\boxed{} <answer>/is:1.,", max_size=200))
def test_extraction_takes_any_text(text):
    found = extract_answer(text, tolerant=True)
    assert found is None or isinstance(found, str)


@pytest.mark.parametrize(
    "piece", [r"\boxed{", "<answer>", "</answer>", "the answer is ", "answer ", "1,", "{", "}", "-", "1."]
)
def test_extraction_is_linear_in_degenerate_responses(piece):
    text = piece * (200_000 // len(piece))
    started = time.perf_counter()
    extract_answer(text, tolerant=True)
    assert time.perf_counter() - started < 2.0


def test_boxes_in_order():
    assert boxed_contents(r"\boxed{a} \boxed{} \boxed{b {c}} \boxed{d") == ["a", "", "b {c}"]


CHAIN_SUMS = list(reasoning_gym.create_dataset("chain_sum", size=8, seed=7))


def chain_sample(entry, text):
    return make_sample(prompt=entry["question"], answer=entry["answer"], text=text, metadata={"entry": entry})


def test_reasoning_gym_right_and_wrong():
    right = [chain_sample(entry, rf"That makes \boxed{{{entry['answer']}}}.") for entry in CHAIN_SUMS]
    wrong = [chain_sample(entry, rf"That makes \boxed{{{int(entry['answer']) + 1}}}.") for entry in CHAIN_SUMS]
    near = [chain_sample(entry, rf"\boxed{{{entry['answer']}0}}") for entry in CHAIN_SUMS]
    none = [chain_sample(entry, f"That makes {entry['answer']}") for entry in CHAIN_SUMS]
    scores = score(reasoning_gym_answer, *right, *wrong, *near, *none)
    assert [one.value for one in scores] == [1.0] * 8 + [0.0] * 24
    assert [one.status for one in scores] == ["ok"] * 24 + ["model_fail"] * 8
    assert all(0 < one.metrics["marks"] < 1 for one in scores[16:24])  # The verifier gave partial marks.
    assert [one.value for one in score(reasoning_gym_answer, *none, tolerant=True)] == [1.0] * 8


def test_reasoning_gym_family_from_the_metadata():
    entry = {**CHAIN_SUMS[0], "metadata": {}}
    sample = make_sample(text=rf"\boxed{{{entry['answer']}}}", metadata={"entry": entry, "family": "chain_sum"})
    assert score(reasoning_gym_answer, sample)[0].value == 1.0


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({}, "metadata['entry'] is missing"),
        ({"entry": {"answer": "1"}}, "the task family is missing"),
        ({"entry": {"answer": "4"}, "family": "no_such"}, "Dataset 'no_such' not registered"),
    ],
)
def test_reasoning_gym_with_broken_data_is_no_zero(metadata, error):
    [got] = score(reasoning_gym_answer, make_sample(metadata=metadata))
    assert (got.value, got.status) == (None, "infra_error")
    assert error in got.error


def test_malformed_answer_on_which_the_verifier_raises():
    [entry] = reasoning_gym.create_dataset("prime_factorization", size=1, seed=1)
    malformed, right, unproven = score(
        reasoning_gym_answer,
        chain_sample(entry, r"\boxed{abc}"),
        chain_sample(entry, rf"\boxed{{{entry['answer']}}}"),
        chain_sample({**entry, "answer": None}, r"\boxed{abc}"),  # No reference to tell whose fault it is.
    )
    assert (malformed.value, malformed.status) == (0.0, "model_fail")
    assert "malformed answer 'abc': ValueError" in malformed.error
    assert right.value == 1.0
    assert (unproven.value, unproven.status) == (None, "infra_error")


def test_answer_that_keeps_the_verifier_busy():
    [entry] = reasoning_gym.create_dataset("countdown", size=1, seed=1)
    samples = [chain_sample(entry, r"\boxed{9**9**9**9}"), chain_sample(CHAIN_SUMS[0], r"\boxed{x}")]
    hung, good = asyncio.run(reasoning_gym_answer.configured(1.0, {}).score(samples))
    assert (hung.value, hung.status) == (0.0, "model_fail")
    assert good.status == "ok"


@pytest.mark.parametrize(
    ("reference", "given_", "value"),
    [
        ("1/2", "0.5", 1.0),
        ("0.5", r"\frac12", 1.0),
        (r"\frac{1}{2}", "1/2", 1.0),
        (r"$\frac{1}{2}$", "0.5", 1.0),
        (r"\boxed{\frac{1}{2}}", "0.5", 1.0),
        ("x^2 + 2x + 1", "(x+1)^2", 1.0),
        (r"\{1, 2\}", r"\{2, 1\}", 1.0),
        (r"\sqrt{2}", "2^{1/2}", 1.0),
        ("1,234", "1234", 1.0),
        ("yes", r"\text{yes}", 1.0),
        ("1/2", "0.51", 0.0),
        ("2", "3", 0.0),
        ("yes", "no", 0.0),
        ("x+1", "x-1", 0.0),
        # Signs, thousands and units as models write them.
        ("-5", "\u22125", 1.0),
        ("-5", "\u20135", 1.0),
        ("-5", "- 5", 1.0),
        ("5", "\u22125", 0.0),
        ("1234567", "1,234,567", 1.0),
        ("1234", "1{,}234", 1.0),
        ("1234", "1.234", 0.0),
        ("12", "1,2", 0.0),
        ("5", r"5\text{ cm}", 1.0),
        ("50", r"50\%", 1.0),
        ("4", "x = 4", 1.0),
        ("4", "2 + 2 = 4", 1.0),
        # Hedging: right only by luck.
        ("2", "2 or 3", 0.0),
        ("3", r"2 \text{ or } 3", 0.0),
        ("2", "2, 3", 0.0),
        ("3", "2; 3", 0.0),
        ("3", r"\{2, 3\}", 0.0),
        ("4", r"\pm 4", 0.0),
        ("4", r"3 \lor 4", 0.0),
        ("4", r"3 \vee 4", 0.0),
        ("4", "3 = 4", 0.0),
        ("4", "4 = 3", 0.0),
        ("4", "not 4", 0.0),
        ("4", r"4 \ne 5", 0.0),
    ],
)
def test_math_equivalence(reference, given_, value):
    [got] = score(math_answer, make_sample(answer=reference, text=rf"Hence \boxed{{{given_}}}."))
    assert (got.value, got.status) == (value, "ok")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\boxed{3}, no, wait: \boxed{4}", 1.0),  # Changed: the last box counts.
        (r"\boxed{4}, no, wait: \boxed{3}", 0.0),
        (r"Could be 4. \boxed{}", 0.0),
        (r"\boxed{\boxed{4}}", 1.0),
        (r"The answer is 4, so \boxed{5}", 0.0),
    ],
)
def test_math_answer_that_is_changed(text, value):
    [got] = score(math_answer, make_sample(answer="4", text=text))
    assert got.value == value


def test_math_without_answer():
    nothing, loose = make_sample(text="I do not know"), make_sample(text="The answer is $4$.")
    assert [one.status for one in score(math_answer, nothing, loose)] == ["model_fail", "model_fail"]
    assert [one.value for one in score(math_answer, nothing, loose, tolerant=True)] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("reference", "text", "value"),
    [
        (4, r"\boxed{4}", 1.0),
        (0.5, r"\boxed{1/2}", 1.0),
        (True, r"\boxed{true}", 1.0),
        (["4", 5], r"\boxed{5}", 1.0),
        (["4", 5], r"\boxed{6}", 0.0),
        ("4", r"\boxed{4} or \boxed{5}", 0.0),
        ("4, 5", r"\boxed{4} and \boxed{5}", 1.0),
        ("5", "<answer>4</answer> or <answer>5</answer>", 0.0),
        ("4", "**Answer: 4**", 1.0),
        ("5", "It is 4 or 5", 0.0),
        ("5", "The answer is $4$ or $5$.", 0.0),
        ("12000", "So it must be 1.2 x 10^4", 1.0),
    ],
)
def test_math_references_and_places_of_every_kind(reference, text, value):
    [got] = score(math_answer, make_sample(answer=reference, text=text), tolerant=True)
    assert (got.value, got.unscored) == (value, False)


def test_math_answer_that_is_too_large_is_the_responses_fault():
    texts = [r"\boxed{9^{9^{9^{9}}}}", r"\boxed{" + "9" * 5000 + "x}", r"\boxed{\prod_{k=1}^{999999} k}", r"\boxed{4}"]
    scores = score(math_answer, *(make_sample(answer="4", text=text) for text in texts))
    assert [one.value for one in scores] == [0.0, 0.0, 0.0, 1.0]
    assert not any(one.unscored for one in scores)


@pytest.mark.parametrize("reference", [None, "", "   "])
def test_math_without_reference_is_no_zero(reference):
    [got] = score(math_answer, make_sample(answer=reference))
    assert (got.value, got.status) == (None, "infra_error")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{34} million", "34 million"),
        (r"\boxed{34}\text{ billion}", r"34\text{ billion}"),
        (r"\boxed{34}\cdot 10^6", r"34\cdot 10^6"),
        (r"\boxed{34}\%", r"34\%"),
        (r"\boxed{34} cm", "34"),
        (r"It is not \boxed{34}", None),
        (r"It isn't $\boxed{34}$", None),
        (r"\boxed{34} is wrong.", None),
        (r"\boxed{33}, wait, \boxed{34}", "34"),
        (r"\boxed{35} oder \boxed{34}", "35, 34"),
        (r"\boxed{35} \boxed{34}", "35, 34"),
        (r"\boxed{34} \boxed{34}", "34"),
        ("<answer>33</answer> hmm <answer>34</answer>", "33, 34"),
        ("<answer>34</answer> hmm <answer>34</answer>", "34"),
        ("It could be 33. It could be 34.", None),
        ("Options: 31, 32, 33, 34", None),
        ("not: 34", None),
        ("wrong: 34", None),
        ("The answer is 34, not 33.", "34"),
        ("The answer is 34 rather than 33.", "34"),
        ("<answer>The answer is 34</answer>", "34"),
        (r"\boxed{\text{The answer is 34}}", "34"),
        ("答案是34。", "34"),
        ("Die Antwort ist 34.", "34"),
    ],
)
def test_what_stands_around_an_answer(text, answer):
    assert extract_answer(text, tolerant=True) == answer


@pytest.mark.parametrize(
    ("text", "nothing"), [(r"\boxed{}", True), ("<answer> </answer>", True), (r"not \boxed{3}", False)]
)
def test_an_answer_that_is_denied_is_no_empty_one(text, nothing):
    assert says_nothing(text) == nothing


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>\boxed{4}</think>The answer is 5.", None),
        (r"I first got \boxed{4}, but it should be 5. So the final answer is 5.", None),
        (r"\boxed{4}" "\n**Final answer: 5**", None),
        ("<answer>4</answer> No, the answer is **-4**.", None),
        (r"\boxed{4}. The answer is 4.", "4"),
        (r"\boxed{4}. The answer is $4.0$.", "4"),
        (r"\boxed{1000}. The answer is 1,000.", "1000"),
        (r"\boxed{20}. The answer is 5 times 4, which is 20.", "20"),
        (r"\boxed{\frac{1}{2}}. The answer is 0.5.", r"\frac{1}{2}"),
        (r"<think>The answer is 5. Hmm.</think> \boxed{4}", "4"),
    ],
)
def test_who_says_later_that_the_answer_is_another_number_has_taken_it_back(text, answer):
    assert extract_answer(text) == answer
