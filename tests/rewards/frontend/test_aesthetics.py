"""Measures against values worked by hand on drawn pages; what is computed from a screenshot as a whole."""

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from evolpo.rewards.frontend import aesthetics, aesthetics_measures
from evolpo.rewards.frontend.aesthetics import GROUPS, LEVELS, TOLERANCE, aesthetics_from_image, percentiles, typicality
from evolpo.rewards.frontend.aesthetics_measures import MEASURES, hue_histogram
from evolpo.rewards.frontend.aesthetics_segments import contrast_ratio, read_png, relative_luminance, segment

FONT = "DejaVuSans.ttf"  # Comes with matplotlib and with Debian's fonts; Chromium depends on them.


def font(size):
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{FONT}", size)


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def drawn(size=(640, 400), ground="white", rectangles=(), texts=()):
    """A page of rectangles (box, colour) and texts (place, words, size, colour)."""
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    for (left, top, right, bottom), colour in rectangles:
        draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
    for place, words, points, colour in texts:
        draw.text(place, words, font=font(points), fill=colour)
    return image


def seen(**page):
    return segment(np.asarray(drawn(**page)))


def page(text_colour="#222222", sizes=(32, 16), gap=30):
    """An ordinary page: a headline, six lines, a button, two cards."""
    texts = [((60, 40), "A plain but honest page", sizes[0], text_colour)]
    lines = "Some useful words that tell the reader what this is about"
    texts += [((60, 110 + gap * i), lines, sizes[1], text_colour) for i in range(6)]
    texts += [((80, 310 + gap), "Send", 16, "white" if text_colour == "#222222" else "#2a70d5")]
    rectangles = [((60, 300 + gap, 200, 340 + gap), "#2266cc"), ((620, 40, 900, 200), "#eef2f7")]
    rectangles += [((620, 230, 900, 340), "#f6e8d0")]
    return drawn((960, 600), rectangles=rectangles, texts=texts)


# -- single measures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [
        ((0, 0, 0), (255, 255, 255), 21.0),
        ((119, 119, 119), (255, 255, 255), 4.478),
        ((255, 0, 0), (255, 255, 255), 3.998),
    ],
)
def test_contrast_ratio_of_known_colours(first, second, ratio):
    luminances = [relative_luminance(np.array(colour)) for colour in (first, second)]
    assert contrast_ratio(*luminances) == pytest.approx(ratio, abs=1e-3)
    assert contrast_ratio(*luminances[::-1]) == pytest.approx(ratio, abs=1e-3)


@pytest.mark.parametrize("ground", ["white", "#203040", "#ffe8cc"])
def test_lines_of_text_are_found_with_their_contrast(ground):
    words = ("The quick brown fox jumps", "over the lazy dog again")
    found = seen(ground=ground, texts=[((40, 40 + 60 * i), text, 20, "#777777") for i, text in enumerate(words)])
    assert len(found.lines) == 2
    one, other = (
        relative_luminance(np.array(Image.new("RGB", (1, 1), c).getpixel((0, 0)))) for c in (ground, "#777777")
    )
    for line, text in zip(found.lines, words, strict=True):
        assert line.contrast == pytest.approx(float(contrast_ratio(one, other)), rel=0.1)
        assert line.width == pytest.approx(font(20).getlength(text), abs=4)
        assert line.glyph_height == pytest.approx(15, abs=1)  # Capitals of DejaVu Sans are 0.73 of its size.
        assert line.letters == pytest.approx(len(text), rel=0.25)


def test_contrast_is_logarithmic_up_to_the_level_needed():
    def of(colour, size=20):
        return MEASURES["contrast"](seen(texts=[((40, 40), "Only these few words", size, colour)]))

    assert of("#000000") == 1.0
    assert of("#767676") == pytest.approx(1.0, abs=0.02)  # 4.54
    assert of("#aaaaaa") == pytest.approx(math.log(2.32) / math.log(4.5), abs=0.03)
    assert of("#aaaaaa", size=32) == pytest.approx(math.log(2.32) / math.log(3), abs=0.03)  # large text
    assert of("#f4f4f4") == pytest.approx(math.log(1.10) / math.log(4.5), abs=0.03)


def test_photos_and_gradients_are_no_text():
    noise = np.random.default_rng(0).integers(0, 256, (400, 640, 3), dtype=np.uint8)
    assert segment(noise).lines == []
    slope = np.repeat(np.linspace(0, 255, 640)[None, :, None], 400, axis=0).repeat(3, axis=2).astype(np.uint8)
    found = segment(slope)
    assert found.lines == []
    assert not found.edges.any()
    assert len(found.blocks) == 0


def test_colourfulness_of_two_halves():
    # rg = 255 on the red half, 0 on the white one; yb = 127.5 and 0: deviations and means are half of these.
    found = seen(rectangles=[((0, 0, 320, 400), "#ff0000")])
    expected = math.hypot(127.5, 63.75) * 1.3
    assert MEASURES["colourfulness"](found) == pytest.approx(expected)
    assert MEASURES["colourfulness"](seen(ground="#808080")) == 0


def test_palette_counts_what_covers_a_thousandth():
    # 256 of 256,000 pixels are a thousandth; 15 x 16 are less.
    found = seen(rectangles=[((0, 0, 16, 16), "#ff0000"), ((50, 0, 65, 16), "#00ff00"), ((100, 0, 200, 99), "#0000ff")])
    assert MEASURES["palette"](found) == 3


def test_harmony_of_templates():
    def with_hues(*hues):
        stripes = [((80 * i, 0, 80 * i + 80, 400), f"hsl({hue}, 100%, 50%)") for i, hue in enumerate(hues)]
        return seen(size=(80 * len(hues), 400), rectangles=stripes)

    assert MEASURES["disharmony"](seen()) == 0
    assert MEASURES["disharmony"](with_hues(0, 60, 120)) == pytest.approx(0, abs=1e-6)  # within the half circle of T
    assert MEASURES["disharmony"](with_hues(30, 210)) == pytest.approx(0, abs=1e-6)  # opposite: I
    for hues in ((0, 90, 180, 270), (0, 120, 240), (0, 70, 140, 210, 280)):
        assert MEASURES["disharmony"](with_hues(*hues)) == pytest.approx(brute_disharmony(with_hues(*hues)), abs=1e-6)
    assert MEASURES["disharmony"](with_hues(0, 120, 240)) > 1


def brute_disharmony(found):
    """All templates and rotations by plain loops."""
    histogram = hue_histogram(found.pixels)
    best = math.inf
    for sectors in aesthetics_measures._TEMPLATES.values():
        for turn in range(360):
            cost = 0.0
            for hue in np.flatnonzero(histogram):
                apart = [abs((hue - turn - centre + 180) % 360 - 180) - width / 2 for centre, width in sectors]
                cost += histogram[hue] * max(min(apart), 0)
            best = min(best, cost)
    return best / histogram.sum()


def test_layout_of_a_symmetric_and_of_a_lopsided_page():
    box = ((270, 160, 370, 240), "#3366aa")
    centred, corner = seen(rectangles=[box]), seen(rectangles=[((0, 0, 100, 60), "#3366aa")])
    for name in ("balance", "symmetry"):
        assert MEASURES[name](centred) == pytest.approx(1, abs=0.01)
        assert MEASURES[name](corner) == pytest.approx(0, abs=0.01)
    assert MEASURES["whitespace"](corner) == pytest.approx(1 - 100 * 60 / (640 * 400), abs=0.005)


def test_balance_by_hand():
    # Boxes of equal size whose middles are 219.5 and 119.5 from the middle column: the heavier side is the farther one.
    found = seen(rectangles=[((80, 180, 120, 220), "#3366aa"), ((420, 180, 460, 220), "#3366aa")])
    assert MEASURES["balance"](found) == pytest.approx(1 - (1 - 119.5 / 219.5) / 2, abs=0.01)


def test_alignment_points_of_a_grid_and_of_a_scatter():
    grid = [((60 + 200 * i, 40 + 120 * j, 160 + 200 * i, 100 + 120 * j), "#3366aa") for i in range(3) for j in range(3)]
    assert MEASURES["alignment"](seen(rectangles=grid)) == pytest.approx(1 - (3 + 3) / 18)
    scatter = [((30 + 150 * i, 20 + 90 * i, 120 + 160 * i, 80 + 95 * i), "#3366aa") for i in range(3)]
    assert MEASURES["alignment"](seen(rectangles=scatter)) == pytest.approx(0)
    assert math.isnan(MEASURES["alignment"](seen()))


def test_crowding_of_touching_lines_and_at_the_margin():
    def of(gap, left=60):
        words = "Hxhd gnpq words of every height"
        return MEASURES["crowding"](seen(texts=[((left, 60 + gap * i), words, 16, "black") for i in range(4)]))

    assert of(gap=30) == 0
    assert of(gap=16) > 0.5
    assert of(gap=30, left=4) == 1


def test_type_sizes_and_hierarchy():
    texts = [((40, 20), "Large headline", 40, "black")]
    texts += [((40, 100 + 40 * i), "Text of the ordinary size", 16, "black") for i in range(4)]
    found = seen(texts=texts)
    assert MEASURES["type_sizes"](found) == 2
    assert MEASURES["hierarchy"](found) == pytest.approx(40 / 16, rel=0.1)
    assert MEASURES["line_length"](found) == pytest.approx(25, rel=0.3)


def test_regions_are_large_areas_of_one_colour():
    found = seen(
        rectangles=[((0, 0, 640, 60), "#223344"), ((100, 100, 300, 300), "#dddddd"), ((400, 100, 420, 120), "red")]
    )
    assert MEASURES["regions"](found) == 3  # band, card and ground; the red square is too small


# -- typicality ---------------------------------------------------------------------------------------------------

RANGE = [float(level) for level in LEVELS]  # percentiles 0, 5 ... 100 of a measure spread evenly over 0 to 100


@pytest.mark.parametrize(
    ("value", "expected"),
    [(50, 1), (25, 1), (75, 1), (10, 0.7), (0, 0.5), (100, 0.5), (100 + 15, 0.5 / math.e), (-15, 0.5 / math.e)],
)
def test_typicality_by_hand(value, expected):
    # `palette` is good on neither side; its tolerance of 15 leaves exp(-d / 15) from the middle half below these.
    assert typicality("palette", value, RANGE) == pytest.approx(
        max(expected, math.exp(-max(25 - value, value - 75, 0) / 15))
    )


def test_the_good_side_is_not_punished():
    assert typicality("contrast", 1000, RANGE) == 1
    assert typicality("crowding", -1000, RANGE) == 1
    assert typicality("crowding", 1000, RANGE) < 0.01


@given(st.sampled_from(sorted(MEASURES)), st.floats(-500, 500), st.floats(0, 50))
def test_typicality_falls_away_from_the_median(name, value, step):
    levels = percentiles()[name]
    median = levels[len(levels) // 2]
    farther = value + math.copysign(step, value - median)
    near, far = typicality(name, value, levels), typicality(name, farther, levels)
    assert 0 <= far <= near <= 1


def test_every_measure_has_a_group_a_tolerance_and_percentiles():
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(MEASURES) == sorted(TOLERANCE) == sorted(percentiles())
    assert all(len(levels) == len(LEVELS) and levels == sorted(levels) for levels in percentiles().values())


# -- a whole screenshot -------------------------------------------------------------------------------------------


def test_an_ordinary_page_and_its_breakdown():
    score = aesthetics_from_image(png(page()))
    assert score.status == "ok"
    assert 0.6 < score.metrics["sound"] <= 1
    assert score.metrics["judge"] == 0
    assert "no judge" in score.artifacts["judge"]
    for name in MEASURES:
        assert name == "alignment" or f"raw/{name}" in score.metrics
        assert 0 <= score.metrics[f"typical/{name}"] <= 1
    logs = [math.log(score.metrics[f"group/{name}"]) for name in GROUPS]
    assert score.metrics["sound"] == pytest.approx(math.exp(sum(logs) / len(logs)))
    assert score.value == pytest.approx(score.metrics["sound"] * math.sqrt(score.metrics["taste"]))
    assert aesthetics_from_image(png(page())).value == score.value


@pytest.mark.parametrize("worse", [{"text_colour": "#f2f2f2"}, {"gap": 17}], ids=["faint", "crowded"])
def test_faults_cost(worse):
    assert aesthetics_from_image(png(page(**worse))).value < aesthetics_from_image(png(page())).value - 0.02


def test_fainter_text_never_gains():
    values = [aesthetics_from_image(png(page(text_colour=f"#{c}{c}{c}"))).value for c in ("55", "99", "cc", "ee", "f6")]
    assert values == sorted(values, reverse=True)


def blank():
    return drawn((960, 600))


def gradient():
    slope = np.linspace(80, 240, 960)[None, :, None] * np.ones((600, 1, 3))
    return Image.fromarray(slope.astype(np.uint8))


def giant():
    return drawn((960, 600), texts=[((20, 100), "WOW", 300, "#223344")])


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 960, 3), dtype=np.uint8))


def headline_on_a_gradient():
    across, down = np.linspace(0, 255, 960)[None, :], np.linspace(255, 0, 600)[:, None]
    colours = np.stack([across * np.ones((600, 1)), down * np.ones((1, 960)), np.full((600, 960), 128)], axis=2)
    image = Image.fromarray(colours.astype(np.uint8))
    ImageDraw.Draw(image).text((200, 250), "Welcome to the future", font=font(56), fill="white")
    return image


def headlines():
    sizes = (14, 18, 24, 32, 44, 60)
    return drawn((960, 600), texts=[((40, 30 + 90 * i), "Words", size, "#222") for i, size in enumerate(sizes)])


def designed():
    """A coloured band with a headline, a picture, three cards with short text."""
    words = ("Fresh bread", "Baked every morning", "before you are up")
    texts = [((60, 50), "The corner bakery", 40, "white"), ((60, 110), "Bread and cake since 1962", 18, "white")]
    for column in range(3):
        left = 60 + 290 * column
        texts += [((left, 400 + 34 * i), line, 22 if i == 0 else 15, "#33281e") for i, line in enumerate(words)]
    cards = [((40 + 290 * i, 380, 300 + 290 * i, 560), "#f3e3cf") for i in range(3)]
    image = drawn((960, 600), ground="#fff8ee", rectangles=[((0, 0, 960, 170), "#7a3b1d"), *cards], texts=texts)
    crumbs = np.random.default_rng(1).normal(0, 25, (180, 880, 1)) + np.array([190, 130, 70])
    image.paste(Image.fromarray(crumbs.clip(0, 255).astype(np.uint8)), (40, 185))
    return image


@pytest.mark.parametrize("drawing", [giant, noise, headline_on_a_gradient, headlines])
def test_a_page_that_is_one_thing_is_worth_less_than_a_page(drawing):
    assert aesthetics_from_image(png(drawing())).value < 0.75 * aesthetics_from_image(png(designed())).value


@pytest.mark.parametrize("nothing", [blank, gradient])
def test_nothing_drawn_is_worth_nothing(nothing):
    score = aesthetics_from_image(png(nothing()))
    assert score.status == "model_fail"
    assert score.value == 0


@pytest.mark.parametrize(
    "data", [b"", b"no image", png(page())[:2000], png(drawn((640, 8)))], ids=["empty", "text", "cut", "thin"]
)
def test_a_bad_file_is_an_error_and_no_zero(data):
    score = aesthetics_from_image(data)
    assert score.status == "infra_error"
    assert score.value is None
    assert score.error
    with pytest.raises(ValueError, match="screenshot"):
        read_png(data)


def test_modes_and_sizes_of_png():
    image = page()
    plain = aesthetics_from_image(png(image)).value
    assert aesthetics_from_image(png(image.convert("RGBA"))).value == plain
    twice = image.resize((1920, 1200), Image.Resampling.NEAREST)
    assert read_png(png(twice)).shape == (600, 960, 3)
    assert aesthetics_from_image(png(twice)).value == pytest.approx(plain)
    assert read_png(png(drawn((100, 4000)))).shape == (300, 100, 3)
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert (read_png(png(clear)) == 255).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_image_gets_a_score(seed):
    rng = np.random.default_rng(seed)
    image = np.full((120, 160, 3), rng.integers(0, 256, 3), dtype=np.uint8)
    for _ in range(rng.integers(0, 40)):
        top, left = rng.integers(0, 110), rng.integers(0, 150)
        image[top : top + rng.integers(1, 40), left : left + rng.integers(1, 60)] = rng.integers(0, 256, 3)
    score = aesthetics_from_image(png(Image.fromarray(image)))
    assert score.value is not None
    assert 0 <= score.value <= 1


def test_percentiles_are_of_the_measures_by_hand():
    shots = [page() for _ in range(5)]
    for i, shot in enumerate(shots):
        ImageDraw.Draw(shot).rectangle((0, 0, 100 * i, 30), fill="#cc0000")
    levels = aesthetics.reference_percentiles([png(shot) for shot in shots])["colourfulness"]
    raw = sorted(aesthetics.raw_measures(png(shot))["colourfulness"] for shot in shots)
    assert [levels[0], levels[5], levels[10], levels[-1]] == pytest.approx([raw[0], raw[1], raw[2], raw[4]], abs=1e-5)
    with pytest.raises(ValueError, match="contrast cannot be taken of any of the 1 screenshots"):
        aesthetics.reference_percentiles([png(blank())])
