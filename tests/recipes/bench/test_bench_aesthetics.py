"""`evolpo bench aesthetics`: figures by hand, a fit that finds what was put in, one line for an unusable folder."""

import csv
import io
import json
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from evolpo import InputError
from evolpo.recipes.bench.aesthetics import BenchAestheticsConfig, bench_aesthetics, scores_by_people
from evolpo.recipes.bench.aesthetics_fit import agreement, cross_validated, fit, predict
from evolpo.rewards.frontend.checklist import item_weights, items_of
from evolpo.rewards.frontend.taste import LIKED
from evolpo.rewards.judges.judge import Reply


def pages_of(draw, count):
    scale = {"letters": 1000, "line_length": 100, "type_sizes": 8}
    return [
        {name: draw.uniform(0, 1) * scale.get(name, 1) + 41 * (name == "letters") for name in LIKED}
        for _ in range(count)
    ]


def test_agreement_by_hand():
    people = np.array([1.0, 2.0, 3.0, 3.0])
    assert agreement(np.array([1.0, 2.0, 3.0, 4.0]), people)["pairs_right"] == 1
    assert agreement(np.array([4.0, 3.0, 2.0, 1.0]), people) == {
        "pairs_right": 0,
        "spearman": pytest.approx(-0.9487, abs=1e-4),
    }
    assert agreement(np.array([1.0, 1.0, 3.0, 4.0]), people)["pairs_right"] == pytest.approx(4.5 / 5)


def test_the_fit_finds_the_measure_that_people_went_by():
    draw = np.random.default_rng(0)
    measured = pages_of(draw, 120)
    people = np.array([page["pictures"] - 0.2 * page["line_length"] / 100 for page in measured])
    found = fit(measured, people)
    assert found["pictures"].weight > 0.5
    assert found["pictures"].best > found["pictures"].worst
    assert found["line_length"].best < found["line_length"].worst
    assert sum(one.weight for one in found.values()) == pytest.approx(1, abs=1e-3)
    assert agreement(cross_validated(measured, people, 0), people)["spearman"] > 0.8
    assert len(predict(measured, found)) == 120


def test_chance_is_not_fitted():
    draw = np.random.default_rng(1)
    measured = pages_of(draw, 200)
    people = draw.normal(size=200)
    assert abs(agreement(cross_validated(measured, people, 0), people)["spearman"]) < 0.25


def test_missing_and_constant_measures_are_no_trouble():
    draw = np.random.default_rng(2)
    measured = [
        page | {"crowding": math.nan if i % 3 else 0.1, "type_sizes": 2.0} for i, page in enumerate(pages_of(draw, 60))
    ]
    people = np.array([page["saturation"] for page in measured])
    assert fit(measured, people)["saturation"].weight > 0.5


def folder_of(tmp_path, count=24):
    """Pages that are liked the more, the more pictures they have."""
    (tmp_path / "images").mkdir()
    draw = np.random.default_rng(0)
    for i in range(count):
        pixels = np.full((400, 640, 3), 245, dtype=np.uint8)
        pixels[150 : 150 + 10 * i, 40:600] = draw.integers(0, 256, (10 * i, 560, 3))
        image = Image.fromarray(pixels)
        for line in range(4):
            ImageDraw.Draw(image).text(
                (40, 20 + 25 * line), "Some words of a page", fill="black", font_size=14 + 4 * line
            )
        image.save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def test_a_folder_of_comparisons(tmp_path):
    folder = folder_of(tmp_path)
    with (folder / "comparisons.csv").open("w") as file:
        writer = csv.DictWriter(file, ["im1", "im2", "w1", "w2"])
        writer.writeheader()
        for i in range(24):
            for j in range(i):
                writer.writerow({"im1": i, "im2": j, "w1": 2, "w2": 1 if i - j < 3 else 0})
    said = scores_by_people(folder)
    assert sorted(said, key=said.__getitem__) == [str(i) for i in range(24)]
    output, coefficients = tmp_path / "out" / "a.json", tmp_path / "taste.json"
    report = bench_aesthetics(
        BenchAestheticsConfig(folder=str(folder), output=str(output), coefficients=str(coefficients))
    )
    assert json.loads(output.read_text()) == report
    assert report["n"] == 24
    assert report["method"] == "shipped"
    assert report["spearman"] == report["shipped"]["spearman"]
    assert report["refitted"]["spearman"] > 0.5
    assert sorted(json.loads(coefficients.read_text())["coefficients"]) == sorted(LIKED)
    assert output.with_suffix(".png").stat().st_size > 1000


class Eyes:
    """A judge who likes pictures: an item is true of a page that has enough of them, each item wants more."""

    def __init__(self, silent_above=1.0, always=None):
        self.silent_above, self.always, self.asked = silent_above, always, 0

    async def ask(self, messages):
        self.asked += 1
        shares = []
        for png in messages[1].images:
            pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)
            shares.append(float((pixels.std(axis=2) > 20).mean()))
        if shares[0] > self.silent_above:
            return Reply("I would rather not say.")
        if len(shares) == 2:
            better = "equal" if shares[0] == shares[1] else "first" if shares[0] > shares[1] else "second"
            return Reply(json.dumps({"better": self.always or better}))
        items = items_of(1)
        return Reply(json.dumps({name: shares[0] > 0.05 * i for i, name in enumerate(items)}))


def rated_folder(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "ratings.csv").write_text("image,score\n" + "".join(f"{i}.png,{i}\n" for i in range(24)))
    return folder


def bench_with(folder, judge, **fields):
    output = folder / "out" / "a.json"
    config = BenchAestheticsConfig(folder=str(folder), output=str(output), judge=judge, **fields)
    report = bench_aesthetics(config)
    assert json.loads(output.read_text()) == report
    return report["judge"]


def test_a_judge_is_held_against_people(tmp_path):
    folder = rated_folder(tmp_path)
    found = bench_with(folder, Eyes(), pairs=30)
    assert (found["pages"], found["unjudged"]) == (24, 0)
    assert found["shipped"]["spearman"] > 0.9
    assert found["refitted"]["spearman"] > 0.9
    assert found["pairs"] == {"judged": 30, "unjudged": 0, "right": 1, "consistent": 1, "right_if_consistent": 1}
    assert sum(found["checklist_weights"].values()) == pytest.approx(1, abs=1e-3)
    assert item_weights(found["checklist_weights"])


def test_a_judge_without_taste_is_seen_as_one(tmp_path):
    found = bench_with(rated_folder(tmp_path), Eyes(always="first"), pairs=20)
    assert (found["pairs"]["right"], found["pairs"]["consistent"]) == (0.5, 0)
    assert "right_if_consistent" not in found["pairs"]


def test_pages_without_a_verdict_are_left_out_and_counted(tmp_path):
    found = bench_with(rated_folder(tmp_path), Eyes(silent_above=0.35), pairs=0)
    assert found["unjudged"] > 3
    assert found["pages"] + found["unjudged"] == 24
    assert [row is None for row in found["rows"]].count(True) == found["unjudged"]
    assert found["pairs"] == {"judged": 0, "unjudged": 0}


def test_a_judge_who_is_away_is_asked_once(tmp_path):
    judge = Eyes(silent_above=-1)
    with pytest.raises(InputError, match=r"^judge: it does not answer: .*no valid verdict"):
        bench_with(rated_folder(tmp_path), judge)
    assert judge.asked == 3  # One question, asked again as long as the answer is no verdict.


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (None, "", "has neither comparisons.csv nor ratings.csv"),
        ("ratings.csv", "image,score\na,1\n", "names 1 images; give at least 20"),
        ("ratings.csv", "page,score\na,1\n", "'image'"),
        ("ratings.csv", "image,score\na,good\n", "good"),
        ("ratings.csv", "image,score\n" + "".join(f"{i}.png,{i}\n" for i in range(30)), "there is no image"),
        ("comparisons.csv", "im1,im2,w1\na,b,1\n", "'w2'"),
    ],
)
def test_a_folder_that_does_not_do_is_one_line(tmp_path, name, text, message):
    if name:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        bench_aesthetics(BenchAestheticsConfig(folder=str(tmp_path), output=str(tmp_path / "o.json")))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("folder: ")


def test_no_folder():
    with pytest.raises(InputError, match=r"^folder: missing"):
        BenchAestheticsConfig()
