"""Multiple choice: what counts as one option, what is ambiguous, and what the reference may be."""

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolpo.rewards.choice import choice_answer, chosen_letter
from evolpo.rewards.testing import check_failure, check_reward, hostile_samples, make_sample

CITIES = {"A": "Rome", "B": "Paris", "C": "New York", "D": "a dog"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"So \boxed{B}.", "B"),
        (r"\boxed{(B)}", "B"),
        (r"\boxed{b}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"\boxed{\textbf{(B)}}", "B"),
        (r"\boxed{\mathrm{B}.}", "B"),
        (r"\boxed{B) Paris}", "B"),
        (r"\boxed{(B) Paris}", "B"),
        (r"\boxed{B: paris.}", "B"),
        (r"\boxed{Paris}", "B"),
        (r"\boxed{\text{New  York}}", "C"),
        (r"\boxed{option C}", "C"),
        ("<answer> **C** </answer>", "C"),
        ("<answer>(D) a dog</answer>", "D"),
        (r"\boxed{A}, no: \boxed{B}", "B"),  # Changed: the last box counts.
        (r"(A) is Rome and (C) New York, so \boxed{B}", "B"),
        (r"\boxed{A or B}", None),
        (r"\boxed{A, B}", None),
        (r"\boxed{AB}", None),
        (r"\boxed{(A) or (B)}", None),
        (r"\boxed{A. or B.}", None),
        (r"\boxed{not B}", None),
        (r"\boxed{A) Paris}", None),  # Letter and text are two options.
        (r"\boxed{Rome and Paris}", None),
        (r"\boxed{E}", None),  # No such option.
        (r"\boxed{B} \boxed{A or B}", None),
        (r"\boxed{4}", None),
        ("The answer is B", None),
        ("B", None),
        ("", None),
    ],
)
def test_strict(text, letter):
    assert chosen_letter(text, CITIES) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"Answer: A \boxed{B}", "B"),  # The box comes first.
        ("Answer: B", "B"),
        ("**Answer: B**", "B"),
        ("**Answer:** (B)", "B"),
        ("The answer is $B$.", "B"),
        ("The answer is **B. Paris**", "B"),
        ("The correct option is (C)", "C"),
        ("the best choice is C.", "C"),
        ("The answer is Paris.", "B"),
        ("The answer is a dog", "D"),
        ("The answer is B because Rome is older.", "B"),
        ("The answer is A because Paris is younger.", "A"),
        ("The answer is B, since (C) is across the sea.", "B"),
        ("The answer is B. (C) is across the sea.", "B"),
        ("I say the answer is A. No, the answer is B.", "B"),
        ("(A) is tempting.\n\nB", "B"),
        ("It lies in France.\n(B)", "B"),
        ("Answer: A or B", None),
        ("Answer: A/B", None),
        ("Answer: A, B", None),
        ("Answer: A and C", None),
        ("Answer: (A) or (B)", None),
        ("Answer: A. or B.", None),
        ("The answer is not B", None),
        ("The answer isn't B", None),
        ("The answer is B? No, it is C.", None),
        ("The answer is B. Wait, actually it must be (C).", None),
        ("Answer: B\n\nHowever, C fits better.", None),
        ("The answer is B is wrong", None),
        ("The answer is B is not right", None),
        ("The answer is A man", None),  # An article, not an option.
        ("The answer is either A or B", None),
        ("The answer is E", None),
        ("Answer: none of them", None),
        ("(A) is wrong and (B) is right, I think", None),  # Mentions are no choice.
        ("A B C D", None),
    ],
)
def test_tolerant(text, letter):
    assert chosen_letter(text, CITIES, tolerant=True) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is B. A is wrong because it is in Italy.", "B"),
        ("The answer is B, not A.", "B"),
        ("The answer is B. Options A, C and D are incorrect because they are elsewhere.", "B"),
        ("The answer is B rather than C.", "B"),
        ("The answer is B. C is wrong; however, D is close but not right.", "B"),
        ("The answer is B. The others (A, C, D) fail.", "B"),
        ("Answer: B\n\nExplanation:\nA) is wrong since it is in Italy.\nC) is incorrect.", "B"),
        ("Answer: B\nA is not in France. But C is not either.", "B"),
        ("**Answer: B) Paris**\n\nA is incorrect because Rome is in Italy.", "B"),
        ("The correct answer is **B**: Paris. Rome (A) is in Italy.", "B"),
        ("The answer is (B) Paris, because A is not.", "B"),
        ("The answer is B. Unlike C, it is in France.", "B"),
        ("The answer is B - Paris", "B"),
        ("The answer is B (Paris).", "B"),
        ("The answer is Paris (B).", "B"),
        ("The answer is option B, since D isn't a city.", "B"),
        ("The final answer is $\\boxed{\\text{B)}\\ \\text{Paris}}$", "B"),
        ("\\boxed{\\text{B)}\\ \\text{Paris}}", "B"),
        ("\\boxed{\\textbf{(B)}\\ Paris}", "B"),
        ("\\boxed{\\textbf{(B) }\\text{Paris}}", "B"),
        ("\\boxed{B - Paris}", "B"),
        ("\\boxed{\\text{B: Paris}}", "B"),
        ("\\boxed{\\text{(B)}~\\text{Paris}}", "B"),
        ("\\boxed{\\mathrm{(B)}\\quad Paris}", "B"),
        ("\\boxed{\\text{Option B}}", "B"),
        ("\\boxed{B (Paris)}", "B"),
        ("\\boxed{Paris (B)}", "B"),
        ("\\boxed{{B}}", "B"),
        ("\\boxed{\\text{b}}", "B"),
        ("<answer>B. Paris</answer>", "B"),
        ("<answer>Option (B)</answer>", "B"),
        ("The answer is one of A, B, C, D.", None),
        ("Answer: A. Rome\nB. Paris\nC. New York", None),
        ("Answer: A) Rome\nB) Paris", None),
        ("The answer is A, B, C or D", None),
        ("\\boxed{A, B, C, D}", None),
        ("\\boxed{A) Rome, B) Paris}", None),
        ("\\boxed{\\text{A or B}}", None),
        ("The answer is B. C is also correct.", None),
        ("The answer is B. But C is right.", None),
        ("The answer is B. Or C.", None),
        ("The answer is B; wait, A is right.", None),
        ("The answer is either B or C", None),
        ("The answer is B or maybe C", None),
        ("The answer is B/C", None),
        ("Both B and C", None),
        ("The answer is not B, it is C", None),
        ("The answer is B. Hmm, no, C.", None),
        ("The answer is B. Correction: C", None),
        ("\\boxed{B}, \\boxed{C}", None),
        ("\\boxed{B} or \\boxed{C}", None),
        ("The answer is none of A, B, C, D", None),
        ("The answer is B & C", None),
        ("\\boxed{B \\text{ and } C}", None),
        ("The answer is B. Actually D.", None),
        ("\\boxed{B. Rome}", None),
        ("\\boxed{A (Paris)}", None),
        ("\\boxed{BB}", None),
        ("The answer is B+C", None),
    ],
)
def test_explained_and_listed_choices(text, letter):
    assert chosen_letter(text, CITIES, tolerant=True) == letter


@pytest.mark.parametrize("answer", [["B", "C"], ["Paris", "(C)"], ("B",)])
def test_any_of_several_right_options(answer):
    sample = make_sample(text=r"\boxed{B}", answer=answer, metadata={"choices": CITIES})
    assert choice_answer.function(sample).value == 1.0


def test_options_as_labels_and_texts():
    choices = {"label": list("ABCD"), "text": list(CITIES.values())}
    sample = make_sample(text=r"\boxed{Paris}", answer="B", metadata={"choices": choices})
    assert choice_answer.function(sample).value == 1.0


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{\text{B)}\ \text{Paris}}", "B"),
        (r"\boxed{\textbf{(D)}\ 12}", "D"),
        (r"\boxed{H}", "H"),
        (r"\boxed{B) some text}", "B"),
        (r"\boxed{B. A dog}", "B"),
        (r"\boxed{B) 5 or (C) 6}", None),
        (r"\boxed{some text}", None),
        (r"\boxed{\frac{1}{2}}", None),
        (r"\boxed{-1}", None),
    ],
)
def test_letters_without_known_options(text, letter):
    assert chosen_letter(text, {}) == letter


def test_text_that_is_another_options_letter_is_ambiguous():
    assert chosen_letter(r"\boxed{B}", {"A": "B", "B": "A"}) is None
    assert chosen_letter(r"\boxed{A) B}", {"A": "B", "B": "A"}) == "A"
    assert chosen_letter(r"\boxed{same}", {"A": "same", "B": "Same."}) is None


@settings(deadline=None)
@given(
    st.sampled_from("ABCD"),
    st.sampled_from(["{}", "({})", "[{}]", "{}.", "({}).", "option {}", r"\text{{{}}}", "**{}**"]),
)
def test_every_way_to_write_a_letter(letter, form):
    written = form.format(letter)
    assert chosen_letter(rf"\boxed{{{written}}}", CITIES) == letter
    assert chosen_letter(f"Therefore the answer is {written}", CITIES, tolerant=True) == letter


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("ABCD"), min_size=2, max_size=4, unique=True),
    st.sampled_from([" or ", ", ", "/", " and "]),
)
def test_several_letters_are_none(letters, between):
    assert chosen_letter(rf"\boxed{{{between.join(letters)}}}", CITIES) is None
    assert chosen_letter(f"Answer: {between.join(letters)}", CITIES, tolerant=True) is None


@settings(deadline=None)
@given(st.text(alphabet="ABab ()[].:,/\n\\boxed{}$* answer is not or", max_size=80))
def test_any_text_is_taken(text):
    assert chosen_letter(text, CITIES, tolerant=True) in (None, *CITIES)


@pytest.mark.parametrize("piece", [r"\text{", "answer ", "answer is A ", "(A) ", "A or ", "**", r"\boxed{A} ", "no A"])
def test_linear_in_degenerate_responses(piece):
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    chosen_letter(text, CITIES, tolerant=True)
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "Paris", "B) Paris"])
@pytest.mark.parametrize("choices", [list(CITIES.values()), CITIES])
def test_reward(answer, choices):
    texts = [r"\boxed{B}", r"\boxed{C}", r"\boxed{B or C}"]
    samples = [make_sample(text=text, answer=answer, metadata={"choices": choices}) for text in texts]
    scores = check_reward(choice_answer, samples)
    assert [(one.value, one.status) for one in scores] == [(1.0, "ok"), (0.0, "ok"), (0.0, "model_fail")]


def test_hostile_responses_are_zero():
    scores = asyncio.run(choice_answer.configured(20.0, {"tolerant": True}).score(hostile_samples(answer="B")))
    assert {one.value for one in scores} == {0.0}


@pytest.mark.parametrize(
    ("answer", "choices", "error"),
    [
        (None, None, "no reference answer"),
        ("E", ["Rome", "Paris"], "names no option"),
        ("Paris", None, "names no option"),
        ("A or B", None, "names no option"),
        ("A", "Rome, Paris", "metadata['choices'] is 'Rome, Paris'"),
        ("A", {"1": "Rome"}, "metadata['choices']"),
    ],
)
def test_broken_data_is_no_zero(answer, choices, error):
    broken = make_sample(text=r"\boxed{A}", answer=answer, metadata={"choices": choices})
    good = make_sample(text=r"\boxed{A}", answer="A")
    assert error in check_failure(choice_answer, broken, [good]).error


@pytest.mark.parametrize("options", [{}, {"A": "Rome", "B": "Paris", "C": "Oslo", "D": "Bern"}])
@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{A} \boxed{B}", None),
        ("<answer>A</answer> so <answer>B</answer>", None),
        ("A\nB", None),
        ("option B is correct", "B"),
        ("I choose B", "B"),
        ("I choose B.", "B"),
        ("B, since A is false", "B"),
        ("Ｂ", "B"),
        ("Ⓑ", "B"),
        ("（Ｂ）", "B"),
        ('{"answer":"B"}', "B"),
        ('<answer>{"answer": "B"}</answer>', "B"),
        (r"\boxed{B, since A is false}", "B"),
        ("Option B is not correct. Option A is correct.", "A"),
        ("Option A is wrong, B is correct", "B"),
        ("I choose A or B", None),
        ("I would go with C because A is wrong", "C"),
        ("I choose not to answer", None),
        (r"\boxed{A}, no: \boxed{B}", "B"),
        (r"It is not \boxed{B}", None),
        ("B is the correct answer.", "B"),
        ("A is correct? No. B is correct.", None),
        ('{"answer": "A or B"}', None),
        ("答案是B", "B"),
        ("<answer>The answer is B.</answer>", "B"),
        ("Ⓐ\nⒷ", None),
        (r"\boxed{A}\boxed{A}", "A"),
        ("B, since A is false, or C", None),
        ("Option B is correct. Wait, option C is better.", None),
    ],
)
def test_one_choice_however_it_is_said(text, letter, options):
    assert chosen_letter(text, options, tolerant=True) == letter
