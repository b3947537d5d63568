"""Which samples the report shows: bounded whatever the run, the best and the worst among them, the same every time."""

import json
import random
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from parsed_page import Page
from test_report import evaluation, figures, sample

from evolpo.recipes.report.report import write_report
from evolpo.recipes.report.samples import SHOWN_LEVELS, SHOWN_STEPS, _bytes, _cut, select_samples
from evolpo.rl.logs.samples import SampleRow, SampleTable

MOST_BYTES = 5_000_000


def saved(folder: Path, rows: list[SampleRow]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table = SampleTable(folder)
    table.add(rows)
    table.save()
    return folder / "samples.parquet"


def many(count: int, steps: int, levels: int = 3, **changes) -> list[SampleRow]:
    noise = random.Random(1)
    return [
        sample(
            1 + place * steps // count,
            noise,
            prompt_id=f"p{place}",
            reward=None if place % 50 == 7 else round(noise.random(), 6),
            difficulty=f"level {place % levels}",
            **changes,
        )
        for place in range(count)
    ]


def test_best_and_worst_of_step_run_and_level_are_there(tmp_path):
    rows = many(4000, steps=100)
    selection = select_samples(saved(tmp_path, rows), {})
    scored = sorted((row for row in rows if row.reward is not None), key=lambda row: row.reward)
    views = {title: [excerpt.row.prompt_id for excerpt in excerpts] for title, excerpts in selection.views}
    assert list(views) == ["Best", "Worst", "Random", "level 0", "level 1", "level 2"]
    assert views["Best"] == [row.prompt_id for row in scored[:-6:-1]]
    assert views["Worst"] == [row.prompt_id for row in scored[:5]]
    assert len(set(views["Random"]) - set(views["Best"]) - set(views["Worst"])) == 5
    for level in range(3):
        of_level = [row.prompt_id for row in scored if row.difficulty == f"level {level}"]
        assert views[f"level {level}"][:2] == [of_level[-1], of_level[0]]
    assert len(selection.steps) == SHOWN_STEPS
    assert (selection.steps[0][0], selection.steps[-1][0]) == (1, 100)
    for step, excerpts in selection.steps:
        of_step = [row.prompt_id for row in scored if row.step == step]
        assert [excerpt.why for excerpt in excerpts] == ["best", "worst", "random", "random"]
        assert [excerpt.row.prompt_id for excerpt in excerpts[:2]] == [of_step[-1], of_step[0]]
    assert selection.total == 4000
    assert selection.shown <= 4 * SHOWN_STEPS + 15 + 12


def test_the_choice_is_the_same_every_time_and_ties_are_left_to_luck(tmp_path):
    rows = [sample(1 + place // 8, random.Random(place), reward=float(place % 2)) for place in range(800)]
    path = saved(tmp_path, rows)
    first = select_samples(path, {})
    assert first == select_samples(path, {})
    best = dict(first.views)["Best"]
    assert {excerpt.row.reward for excerpt in best} == {1.0}
    assert len({excerpt.row.step for excerpt in best}) > 1  # not all from the beginning


def test_a_short_run_is_shown_whole_in_its_order(tmp_path):
    rows = many(4, steps=1)
    selection = select_samples(saved(tmp_path, rows), {})
    assert [excerpt.row for excerpt in selection.steps[0][1]] == rows
    assert selection.views == []
    assert select_samples(tmp_path / "none.parquet", {}).steps == []


def test_what_could_not_be_scored_is_neither_best_nor_worst(tmp_path):
    selection = select_samples(saved(tmp_path, many(300, steps=3, levels=1, advantage=0.0)), {})
    assert "level 0" not in dict(selection.views)  # a single level is the whole run
    for title in ("Best", "Worst"):
        assert all(excerpt.row.reward is not None for excerpt in dict(selection.views)[title])
    nothing = [sample(step, random.Random(step), reward=None) for step in range(1, 30)]
    assert [title for title, _ in select_samples(saved(tmp_path / "unscored", nothing), {}).views] == ["Random"]


HOSTILE = {
    "one long sentence": {"sentences": [("long " * 50_000, 9, 1.0)]},
    "a sentence a letter": {"sentences": [("x", 1, 1.01)] * 4000},
    "sentences without text": {"sentences": [("", 1, None)] * 4000},
    "no sentences": {"sentences": [], "response": "'<&>'" * 100_000},
    "markup": {"sentences": [("<'\"&>" * 50, 9, 0.9)] * 500},
    "wide letters": {"sentences": [("数学、\N{PILE OF POO}" * 100, 9, None)] * 100, "prompt": "数" * 100_000},
    "everything else": {
        "prompt": "<p>" * 100_000,
        "answer": "&" * 100_000,
        "prompt_id": "'" * 100_000,
        "difficulty": '"' * 100_000,
        "breakdown": {f"{'<' * 5000}{number}": 1.0 for number in range(100)},
    },
}


def test_the_page_stays_small_whatever_the_texts(tmp_path):
    noise = random.Random(2)
    rows = []
    for changes in HOSTILE.values():
        fields = {"response": "".join(text for text, *_ in changes.get("sentences", ())) or "unsaid"} | changes
        rows += [sample(1 + len(rows) // 4 + place // 8, noise, **fields) for place in range(32)]
    saved(tmp_path, rows)
    page = write_report(tmp_path)
    assert page.stat().st_size < MOST_BYTES
    text = Page(page).text
    assert f"of {len(rows)} samples" in text
    for cut in ("of 250,000 characters", "of 4,000 characters", "0 of 6 characters", "of 500,000 characters"):
        assert cut in text


def test_a_cut_is_said_with_its_length(tmp_path):
    sentences = [("word " * 10, 10, 1.0)] * 1000
    row = sample(1, random.Random(0), sentences=sentences, response="word " * 10_000, prompt="p" * 5000)
    [[(_, [excerpt])]] = [select_samples(saved(tmp_path, [row]), {}).steps]
    shown = sum(len(text) for text, *_ in excerpt.row.sentences)
    assert 1000 < shown < 7500
    assert excerpt.cut == f"1,500 of 5,000 characters of the prompt and {shown:,} of 50,000 characters of the response"
    [[(_, [whole])]] = [select_samples(saved(tmp_path / "short", [sample(1, random.Random(0))]), {}).steps]
    assert whole.cut == ""


def test_many_levels_are_thinned(tmp_path):
    selection = select_samples(saved(tmp_path, many(2000, steps=10, levels=100)), {})
    assert len(selection.views) == 3 + SHOWN_LEVELS


@given(st.text(max_size=300), st.integers(0, 400))
def test_a_cut_text_is_a_beginning_that_fits(text, room):
    part = _cut(text, room)
    assert text.startswith(part)
    assert _bytes(part) <= room
    assert part == text or len(part) >= room // 12  # a letter takes ten bytes at most, and little is given away


def test_ten_thousand_samples_and_twenty_thousand_steps_make_a_small_page_soon(tmp_path):
    noise = random.Random(0)
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(20_001):
            record = {"step": step, "time": float(step)} | (figures(step, 20_000, noise) if step else {})
            file.write(json.dumps(record | evaluation(step, 20_000)) + "\n")
    saved(tmp_path, many(10_000, steps=50, sentences=[("First, 42 + 17 = 59.\n", 9, 1.01)] * 100))
    began = time.process_time()
    page = write_report(tmp_path)
    assert time.process_time() - began < 5.0
    assert page.stat().st_size < MOST_BYTES
    assert len(Page(page).all("div", "step")) == SHOWN_STEPS
