"""`evolpo pareto`: the front, the intervals, the files, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run as command
from hypothesis import given
from hypothesis import strategies as st
from parsed_page import Page

from evolpo import InputError
from evolpo.recipes.pareto.page import verdict
from evolpo.recipes.pareto.pareto import ParetoConfig, pareto
from evolpo.recipes.pareto.runs import find_runs
from evolpo.recipes.pareto.statistics import Bootstrap, Estimate, Figures, Finals, figures, finals, front
from evolpo.recipes.runs.evaluation import Judged, write_judged

LEVELS = ("easy", "hard")
POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)).map(lambda p: (float(p[0]), float(p[1]))), min_size=1)


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] <= other[1]


@given(POINTS)
def test_no_point_of_the_front_is_dominated_and_every_other_is_by_one_of_it(points):
    found = front(points)
    for index, point in enumerate(points):
        if index in found:
            assert not any(dominates(other, point) for other in points)
        else:
            assert any(dominates(points[best], point) for best in found)


@given(POINTS, st.randoms())
def test_the_front_does_not_depend_on_the_order(points, random):
    shuffled = random.sample(points, len(points))
    assert [shuffled[i] for i in front(shuffled)] == [points[i] for i in front(points)]


def test_the_front_goes_from_cheap_to_dear():
    assert front([(0.9, 30.0), (0.5, 10.0), (0.8, 35.0), (0.7, 20.0), (0.6, 20.0)]) == [1, 3, 0]


def judged(rng, accuracy: float, tokens: float, count: int = 40) -> list[Judged]:
    rows = []
    for i in range(count):
        length = float(round(tokens * (1 + i % 2) * rng.uniform(0.8, 1.2)))
        rows.append(Judged(f"p{i}", LEVELS[i % 2], int(rng.random() < accuracy), 1, length))
    return rows


def test_finals_are_laid_out_by_seed_and_problem():
    part = finals([(3, [Judged("b", "", 1, 2, 7.0), Judged("a", "", 0, 1, 5.0)]), (1, [*map(one, "ab")])])
    assert part.seeds == (1, 3)
    assert part.tokens.tolist() == [[2.0, 2.0], [5.0, 7.0]]
    assert part.accuracy.tolist() == [[1.0, 1.0], [0.0, 0.5]]


def one(prompt_id: str) -> Judged:
    return Judged(prompt_id, "", 1, 1, 2.0)


def test_draws_are_crossed_over_seeds_and_problems():
    """The variance of a draw's mean, for values of seed plus problem, is the sum of both parts' plug-in variances."""
    rng = np.random.default_rng(0)
    by_seed, by_problem = rng.normal(0, 1.0, 5), rng.normal(0, 2.0, 30)
    values = by_seed[:, None] + by_problem[None, :]
    draws = Bootstrap(30, resamples=40_000).means((0, 1, 2, 3, 4), values)
    assert draws.mean() == pytest.approx(values.mean(), abs=0.02)
    assert draws.var() == pytest.approx(by_seed.var() / 5 + by_problem.var() / 30, rel=0.05)


def test_a_draw_is_the_mean_of_the_drawn_seeds_and_problems():
    bootstrap = Bootstrap(3, resamples=50)
    values = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    draws = bootstrap.means((0, 1), values)
    problems = bootstrap.means((7,), np.ones((1, 3)))
    assert problems == pytest.approx(np.ones(50))  # weights sum to one
    grids = [values[np.ix_(s, p)].mean() for s in np.ndindex(2, 2) for p in np.ndindex(3, 3, 3)]
    assert np.abs(draws[:, None] - np.array(grids)).min(axis=1).max() < 1e-12


def test_differences_are_paired_by_problem_and_seed():
    rng = np.random.default_rng(1)
    tokens = rng.uniform(10, 100, (4, 50))
    accuracy = rng.integers(0, 2, (4, 50)).astype(float)
    base = Finals((0, 1, 2, 3), accuracy, tokens)
    part = figures(Finals((0, 1, 2, 3), accuracy, 0.75 * tokens), base, Bootstrap(50))
    assert part.saved is not None
    assert (part.saved.value, part.saved.low, part.saved.high) == pytest.approx((0.25, 0.25, 0.25))
    assert part.gain == Estimate(0.0, 0.0, 0.0)
    assert part.tokens.high - part.tokens.low > 5  # of which nothing is left in the difference
    other = figures(Finals((4, 5, 6, 7), accuracy, 0.75 * tokens), base, Bootstrap(50))
    assert other.saved is not None
    assert other.saved.value == pytest.approx(0.25)
    assert other.saved.high - other.saved.low > 0.01
    own = figures(base, base, Bootstrap(50))
    assert (own.saved, own.gain) == (None, None)


def test_when_all_are_right_the_interval_is_wilsons():
    estimate = Bootstrap(100).mean((0, 1), np.ones((2, 100)))
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(1 / (1 + 1.96**2 / 100), abs=1e-3)


def test_the_sentence_claims_no_more_than_the_intervals():
    accuracy = tokens = Estimate(0.5, 0.4, 0.6)
    fewer = Figures(accuracy, tokens, Estimate(0.25, 0.2, 0.3), Estimate(0.01, -0.01, 0.03))
    assert verdict(fewer, "plain") == (
        "25.0% fewer tokens than plain (95% interval 20.0 to 30.0); "
        "no difference in accuracy beyond the interval (+1.0 [−1.0, +3.0] points)."
    )
    more = Figures(accuracy, tokens, Estimate(-0.25, -0.3, -0.2), Estimate(0.02, 0.01, 0.03))
    assert verdict(more, "plain") == (
        "25.0% more tokens than plain (95% interval 20.0 to 30.0); accuracy +2.0 [+1.0, +3.0] points."
    )
    neither = Figures(accuracy, tokens, Estimate(0.0, -0.1, 0.1), Estimate(-0.02, -0.03, -0.01))
    assert verdict(neither, "plain").startswith("no difference in tokens to plain beyond the interval")


def train_run(folder: Path, seed: int, accuracy: float, tokens: float, steps: int = 20) -> Path:
    """A run's folder with verdicts at its start and end; the later are better and longer."""
    folder.mkdir(parents=True)
    sources = "[{difficulty: hard}, {difficulty: easy}]"
    (folder / "config.yaml").write_text(f"seed: {seed}\nsteps: {steps}\ndata: {{train: {sources}}}\n")
    rng = np.random.default_rng([seed, int(100 * accuracy)])
    write_judged(folder / "evaluations" / "step_0.jsonl", judged(rng, 0.3, 10))
    write_judged(folder / "evaluations" / "step_20.jsonl", judged(rng, accuracy, tokens))
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for seed in (0, 1):
        train_run(tmp_path / "plain" / f"run_{seed}", seed, 0.7, 40)
        train_run(tmp_path / "short $_x" / f"run_{seed}", seed, 0.75, 20)
    before = tmp_path / "before" / "run"
    before.mkdir(parents=True)
    (before / "config.yaml").write_text("seed: 0\n")
    write_judged(before / "judged.jsonl", judged(np.random.default_rng(5), 0.3, 10))
    return tmp_path


def config(folder: Path, **changes) -> ParetoConfig:
    names = ("plain", "short $_x", "before")
    fields = {"runs": {n: [f"{folder}/{n}/*"] for n in names}, "baseline": "plain", "output": f"{folder}/report/a"}
    return ParetoConfig(**(fields | changes))


def test_the_files_and_the_table(study, capfd):
    text = pareto(config(study))
    output = study / "report" / "a"
    assert sorted(path.name for path in output.iterdir()) == [
        *("pareto.html", "pareto.json", "pareto.png", "pareto_summary.json")
    ]
    rows = json.loads((output / "pareto.json").read_text())
    assert [set(row) for row in rows] == [{"method", "seed", "level", "accuracy", "tokens", "n"}] * 5 * 3
    final = [json.loads(line) for line in (study / "plain/run_1/evaluations/step_20.jsonl").read_text().splitlines()]
    for level in ("all", *LEVELS):
        [row] = [row for row in rows if (row["method"], row["seed"], row["level"]) == ("plain", 1, level)]
        part = [each for each in final if level in ("all", each["difficulty"])]
        assert row["n"] == len(part)
        assert row["accuracy"] == pytest.approx(np.mean([each["correct"] for each in part]))
        assert row["tokens"] == pytest.approx(np.mean([each["tokens"] for each in part]))

    summary = json.loads((output / "pareto_summary.json").read_text())
    assert [level["name"] for level in summary["levels"]] == ["all", "hard", "easy"]
    checkpoints = summary["checkpoints"]
    assert len(checkpoints) == (4 * 2 + 1) * 3
    assert all(each["accuracy"]["low"] <= each["accuracy"]["value"] <= each["accuracy"]["high"] for each in checkpoints)
    saved = summary["levels"][0]["methods"]["short $_x"]["saved"]
    assert 0.4 < saved["low"] < saved["value"] < saved["high"] < 0.6
    assert summary["levels"][0]["methods"]["plain"]["gain"] is None

    lines = text.splitlines()
    assert lines[-1] == str(output / "pareto.html")
    assert lines[0].startswith("| method | seeds | accuracy | tokens | tokens saved against plain")
    assert lines[2].startswith("| plain | 2 | ")
    assert f"{100 * saved['value']:.1f}% [" in lines[3]
    assert "reading plain" in capfd.readouterr().err

    page = Page(output / "pareto.html")
    assert len(page.all("svg")) == 2 + len(LEVELS)
    assert all(tag not in ("link", "iframe", "img", "script") for tag, _ in page.tags)
    assert "short $_x: " in page.text
    assert f"{100 * saved['value']:.1f}% fewer tokens than plain" in page.text
    assert {tag.lower() for tag, attributes in page.tags if "id" in attributes} <= {"path", "clippath"}
    assert (output / "pareto.png").read_bytes().startswith(b"\x89PNG")

    again = study / "report" / "b"
    pareto(config(study, output=str(again)))
    for name in ("pareto.json", "pareto_summary.json", "pareto.html"):
        assert (again / name).read_bytes() == (output / name).read_bytes()


def test_problems_without_levels(tmp_path):
    for seed in (0, 1):
        run = train_run(tmp_path / f"run_{seed}", seed, 0.7, 40)
        for file in (run / "evaluations").iterdir():
            file.write_text(file.read_text().replace("easy", "").replace("hard", ""))
    text = pareto(ParetoConfig({"plain": [f"{tmp_path}/run_*"]}, output=str(tmp_path / "report")))
    assert len(text.splitlines()) == 4
    assert "By difficulty" not in Page(tmp_path / "report" / "pareto.html").text


def test_a_folder_that_two_patterns_match_is_read_once(study):
    found = find_runs({"plain": [f"{study}/plain/*", f"{study}/plain/run_0"]})
    assert [folder.name for _, folder in found] == ["run_0", "run_1"]


def test_mistakes(study):
    train_run(study / "again", 0, 0.7, 40)
    train_run(study / "longer", 2, 0.7, 40, steps=21)
    (study / "empty").mkdir()
    bare, damaged, other = (train_run(study / name, 2, 0.7, 40) for name in ("bare", "damaged", "other"))
    for file in (bare / "evaluations").iterdir():
        file.unlink()
    file = damaged / "evaluations" / "step_20.jsonl"
    file.write_text(file.read_text()[:-20])
    file = other / "evaluations" / "step_20.jsonl"
    file.write_text(file.read_text().replace('"p0"', '"q0"'))
    short = train_run(study / "short", 2, 0.7, 40, steps=0)
    (short / "evaluations" / "step_20.jsonl").unlink()
    blank = train_run(study / "blank", 2, 0.7, 40)
    (blank / "evaluations" / "step_20.jsonl").write_text("")
    for name, words in {
        "nowhere": "nowhere is no folder",
        "again": "are both of seed 0; keep one",
        "longer": "has verdicts to step 20 of 21; go on with evolpo train resume=",
        "empty": "has no config.yaml of a run",
        "bare": "has no evaluations",
        "damaged": "step_20.jsonl is damaged",
        "other": "on different problems (2 are in one only)",
        "short": "ends at step 20",
        "blank": "step_20.jsonl has no verdicts",
    }.items():
        with pytest.raises(InputError) as error:
            pareto(config(study, runs={"plain": [f"{study}/plain/*", f"{study}/{name}"]}))
        assert str(error.value).startswith("runs.plain: ")
        assert words in str(error.value)
    assert not (study / "report" / "a" / "pareto.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs={a: [FOLDER/plain/run_0]}", "output=FOLDER/out"], "runs: 1 run cannot be compared; give two or more"),
        (["output=FOLDER/out"], "runs: 0 runs cannot be compared"),
        (["runs={a: [FOLDER/plain/*]}"], "output: is empty"),
        (["runs.a=[FOLDER/plain/*]", "output=FOLDER/o", "baseline=b"], "baseline: 'b' is none of a"),
        (["runs={a: [FOLDER/plain/*], b: []}", "output=FOLDER/o"], "runs.b: names no folder"),
        (["runs={a: [FOLDER/plain/*]}", "output=FOLDER/plain/run_0/config.yaml"], "output: "),
    ],
)
def test_a_mistake_is_one_line(study, capsys, arguments, words):
    code, out, err = command(capsys, "pareto", *(word.replace("FOLDER", str(study)) for word in arguments))
    assert (code, out) == (2, "")
    assert err.startswith(f"evolpo: {words}")
    assert err.count("\n") == 1


def test_the_command(study, capsys):
    names = f"runs={{plain: [{study}/plain/*], before: [{study}/before/run]}}"
    code, out, _ = command(capsys, "pareto", names, f"output={study}/out")
    assert code == 0
    assert out.startswith("| method | seeds |")
    assert out.endswith(f"{study}/out/pareto.html\n")
