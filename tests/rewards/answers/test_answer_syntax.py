"""The parsers of what reasoning-gym's verifiers would have Python evaluate."""

from fractions import Fraction

import pytest
import sympy

from evolpo.rewards.answers.syntax import arithmetic, bits, formula, literal, plain_operators


def test_literal():
    assert literal("[[1, -2], ('a', 0.5)]") == [[1, -2], ("a", 0.5)]


def test_arithmetic():
    assert arithmetic("49*(85 - 1)/14 - 42 - -73") == Fraction(49 * 84, 14) - 42 + 73


def test_bits():
    assert bits("((0x86c >> 0x3) * (0xa723 - 0xe46))") == (0x86C >> 3) * (0xA723 - 0xE46)


@pytest.mark.parametrize(
    "text",
    [
        "7*X**9 - 2*X**6 + C",
        "3*sin(2*x)*exp(x)/4 + C",
        "-log(x)/2 + E*pi",
        "x**(1/2) + 0.5*asin(x)",
        "Integral(x*cos(x), x)",
    ],
)
def test_formula_is_sympys(text):
    assert formula(text, functions=frozenset(("sin", "exp", "log", "asin", "cos", "Integral"))) == sympy.parse_expr(
        text
    )


@pytest.mark.parametrize("parse", [literal, arithmetic, bits, formula])
@pytest.mark.parametrize(
    "text",
    [
        *(
            "__import__('os')",
            "x.y",
            "(lambda: 1)()",
            "[i for i in [1]]",
            "f'{1}'",
            "a := 1",
            "1 if 1 else 2",
            "*a",
            "b'x'",
            "...",
        ),
        *(
            "x[0]",
            "{1: 2}",
            "not 1",
            "1 < 2",
            "True",
            "None",
            "1; 2",
            "await x",
            "x = 1",
            "",
            "\x00",
            "1" * 60,
            "(" * 100 + "1" + ")" * 100,
        ),
        *("print(1)", "sin.__class__", "getattr(x, 'y')", "9**9**9**9"),
    ],
)
def test_all_else_is_refused(parse, text):
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_powers_have_a_bound():
    for text in ("(x+1)**101", "x**1001", "2**5000", "x**-2000"):
        with pytest.raises(ValueError, match="too large"):
            formula(text)


def test_operators_as_written():
    assert plain_operators(r"3 \times (4 − 1) ÷ 2") == "3 * (4 - 1) / 2"
    assert plain_operators("x² + x^3 · y⁻¹") == "x**(2) + x**3 * y**(-1)"
