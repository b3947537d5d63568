"""What people like: each measure by hand, bounds, monotony, and that the shipped weights come from the bench."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolpo.rewards.frontend import taste as module
from evolpo.rewards.frontend.aesthetics_segments import segment
from evolpo.rewards.frontend.taste import LIKED, PARTS, Coefficient, reach_all, reached, shipped, taste

numbers = st.floats(0, 1e6)
pages = st.fixed_dictionaries({name: numbers | st.just(math.nan) for name in LIKED})


def seen(pixels):
    return segment(np.asarray(pixels, dtype=np.uint8))


def ground(colour, size=(320, 480)):
    return np.full((*size, 3), colour, dtype=np.uint8)


def test_the_three_commonest_colours():
    pixels = ground(255)
    pixels[:160, :240] = 0  # a quarter
    pixels[200:240, :] = (200, 0, 0)  # an eighth
    pixels[280:300, :96] = (0, 0, 200)  # an eightieth, the fourth colour
    assert module.three_colours(seen(pixels)) == pytest.approx(1 - 1 / 80)


def test_saturation_of_a_red_half():
    pixels = ground(128)
    pixels[:, :240] = (255, 0, 0)
    assert module.saturation(seen(pixels)) == pytest.approx(0.5)
    assert module.saturation(seen(ground(0))) == 0


def test_pictures_are_squares_of_many_colours_side_by_side():
    pixels = ground(240)
    pixels[:160, :160] = np.random.default_rng(0).integers(0, 256, (160, 160, 3))
    assert module.pictures(seen(pixels)) == pytest.approx(160 * 160 / (320 * 480))
    alone = ground(240)
    alone[64:80, 64:80] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))  # one square, as an icon
    assert module.pictures(seen(alone)) == 0


def test_no_text_is_nothing():
    assert math.isnan(module.letters(seen(ground(240))))
    assert taste(dict.fromkeys(LIKED, 1.0) | {"letters": math.nan}) == 0


@pytest.mark.parametrize(
    ("value", "expected"), [(10, 1), (20, 1), (60, 0.5), (100, 0), (1e9, 0), (math.nan, 0), (-math.inf, 1)]
)
def test_reach_of_a_measure_of_which_less_is_better(value, expected):
    assert reached("line_length", value, worst=100, best=20) == pytest.approx(expected)


def test_letters_count_by_their_ratio():
    assert reached("letters", 200, worst=400, best=100) == pytest.approx(0.5)


def test_taste_by_hand():
    half = {name: Coefficient(1, 2, 0.5 if name in ("type_sizes", "pictures") else 0.0) for name in LIKED}
    measured = dict.fromkeys(LIKED, 1.0) | {"letters": 80, "type_sizes": 1.64, "pictures": 1.25}
    assert taste(measured, half) == pytest.approx(0.8 * 0.5)
    assert taste(measured | {"letters": 10}, half) == pytest.approx(0.1)  # a quarter of the least text
    assert taste(measured | {"pictures": 1.0}, half) == pytest.approx(0.8 * math.sqrt(0.05))


@given(pages)
def test_taste_is_between_0_and_1(page):
    assert 0 <= taste(page) <= 1
    assert all(0 <= one <= 1 for one in reach_all(page).values())


@given(pages, st.sampled_from(sorted(LIKED)), numbers)
def test_a_measure_that_gets_better_never_costs(page, name, value):
    if name == "letters" and value < module.LEAST_LETTERS:
        return  # below the least text less text is worse
    better = page | {name: value}
    if math.isnan(page[name]) or (value - page[name]) * LIKED[name][1] >= 0:
        assert taste(better) >= taste(page) - 1e-12


def test_shipped_weights():
    found = shipped()
    assert sorted(found) == sorted(LIKED) == sorted(name for part in PARTS for name in part)
    assert sum(one.weight for one in found.values()) == pytest.approx(1, abs=1e-3)
    assert max(one.weight for one in found.values()) < 0.3  # no measure decides alone
    for name, one in found.items():
        assert one.weight >= 0
        assert (one.best - one.worst) * LIKED[name][1] > 0
