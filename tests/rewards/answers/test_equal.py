"""What counts as the same answer: a table of odd spellings, and properties of separators and scripts."""

import contextlib
import time
from fractions import Fraction

import pytest
from answer_table import RIGHT_BUT_ODD, WRONG_BUT_TEMPTING
from hypothesis import given, settings
from hypothesis import strategies as st

from evolpo.rewards.answers.accepted import accepted_answers
from evolpo.rewards.answers.equal import same_answer
from evolpo.rewards.answers.numbers import read_number
from evolpo.rewards.answers.sealed import ComputationFailed
from evolpo.rewards.answers.symbolic import TooLarge

ZEROS = "0٠०০０𝟎"  # ASCII, Arabic-Indic, Devanagari, Bengali, full-width, mathematical bold.


@pytest.mark.parametrize(("reference", "answer"), RIGHT_BUT_ODD)
def test_right_but_odd(reference, answer):
    assert same_answer(reference, answer)


@pytest.mark.parametrize(("reference", "answer"), WRONG_BUT_TEMPTING)
def test_wrong_but_tempting(reference, answer):
    assert not same_answer(reference, answer)


@pytest.mark.parametrize(("reference", "answer"), RIGHT_BUT_ODD + WRONG_BUT_TEMPTING)
def test_everything_is_itself(reference, answer):
    assert same_answer(reference, reference)
    assert not answer.strip("?") or same_answer(answer, answer)


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.sampled_from(ZEROS))
def test_digits_of_every_script(number, zero):
    written = "".join(chr(ord(zero) + int(digit)) if digit.isdigit() else digit for digit in str(number))
    assert same_answer(str(number), written)
    assert not same_answer(str(number + 1), written)


@settings(deadline=None)
@given(
    st.integers(1000, 10**15),
    st.integers(0, 99),
    st.sampled_from([(",", "."), (".", ","), (" ", "."), ("'", "."), (" ", ",")]),
)
def test_separators_of_thousands(whole, hundredths, marks):
    separator, point = marks
    grouped = f"{whole:,}".replace(",", separator)
    assert same_answer(f"{whole}.{hundredths:02}", f"{grouped}{point}{hundredths:02}")
    assert not same_answer(f"{whole + 1}.{hundredths:02}", f"{grouped}{point}{hundredths:02}")
    if whole >= 10**6:
        assert same_answer(str(whole), grouped)


@settings(deadline=None)
@given(
    st.integers(-999, 999), st.integers(-30, 30), st.sampled_from(["e", "E", r" \times 10^{", "×10^{", r" \cdot 10^{"])
)
def test_scientific_notation(mantissa, exponent, sign):
    written = f"{mantissa}{sign}{exponent}" + ("}" if "{" in sign else "")
    value = Fraction(mantissa) * Fraction(10) ** exponent
    reference = f"{value.numerator}/{value.denominator}" if value.denominator > 1 else str(value.numerator)
    assert same_answer(reference, written)
    assert not same_answer(reference + "1", written)


@settings(deadline=None)
@given(
    st.integers(-50, 50),
    st.integers(-50, 50),
    st.sampled_from([" or ", ", ", "; ", " and ", " | ", r" \lor ", r"\text{ or }", "\n"]),
)
def test_who_gives_two_has_given_none(first, second, between):
    assert not same_answer(str(first), f"{first}{between}{second}")
    assert not same_answer(str(second), f"{first}{between}{second}")
    assert same_answer(f"{first}, {second}", f"{second}{between}{first}")


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_compared(text):
    for reference in ("5", "x+1", "Paris", text):
        with contextlib.suppress(TooLarge, ComputationFailed):
            same_answer(reference, text)


@pytest.mark.parametrize(
    "answer",
    [
        "10**10**10",
        "9^{9^{9^{9}}}",
        "100000!",
        "(((9999!)!)!)!",
        "9" * 5000,
        "(" * 5000 + "1",
        "1e999999999",
        "2^{99999999}",
        r"\frac{" * 500 + "1" + "}{2}" * 500,
        r"\sum_{k=1}^{10^{9}} k!",
        r"\prod_{k=1}^{99999} k",
        "x^{99999}" * 200,
        r"\int_0^1 e^{e^{e^{x}}} \sin(\cos(x^{x})) dx",
        "+".join(f"x_{{{n}}}" for n in range(150)),
        "a" * 15000,
        "\x00" * 100,
    ],
)
def test_what_is_too_large_ends(answer):
    for reference in ("5", "x+1"):
        started = time.perf_counter()
        with contextlib.suppress(TooLarge, ComputationFailed):
            assert not same_answer(reference, answer)
        assert time.perf_counter() - started < 60.0
    assert same_answer(r"\sqrt{8}", r"2\sqrt{2}")


@pytest.mark.parametrize(
    "piece", ["a", "1,", r"\text{", "**", "2 or ", "x=", "^", r"\frac{1}", "5 cm ", "½", "[", "1:"]
)
def test_reading_is_linear(piece):
    started = time.process_time()
    with contextlib.suppress(TooLarge):
        same_answer("5", piece * (18_000 // len(piece)))
    assert time.process_time() - started < 3.0


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ("4", ["4"]),
        (4, ["4"]),
        (0.5, ["0.5"]),
        (True, ["True"]),
        (["4", 5], ["4", "5"]),
        ((1.5,), ["1.5"]),
        ([None, "3"], ["3"]),
    ],
)
def test_references_of_every_type(answer, texts):
    assert accepted_answers(answer) == texts


@pytest.mark.parametrize(
    "answer", [None, "", "  ", [], [None], [[1]], ["3", [None]], {"a": 1}, float("nan"), [1, float("inf")], object()]
)
def test_references_that_are_none(answer):
    with pytest.raises(ValueError, match="reference answer"):
        accepted_answers(answer)


def test_a_comma_in_a_reference_is_a_list():
    assert read_number("1,8") is None
    assert read_number("1,8", answer=True).value == Fraction(9, 5)
    assert read_number("1,800").value == 1800
