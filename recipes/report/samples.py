"""The samples that the report shows: a bounded choice, made by position so that only chosen texts are read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from markupsafe import escape
from numpy.typing import NDArray

from evolpo.recipes.drawing.charts import Record
from evolpo.recipes.runs.levels import in_order
from evolpo.rl.logs.samples import SampleRow, read_sample_columns, read_samples

SHOWN_STEPS = 40
"""Steps whose samples the page holds."""
PER_STEP = (1, 1, 2)
"""Best, worst and random ones of a step that has more."""
OF_THE_RUN = (5, 5, 5)
"""Best, worst and random ones of the run."""
PER_LEVEL = (1, 1, 2)
"""Best, worst and random ones of a level."""
SHOWN_LEVELS = 12
"""Levels that are shown; of more, evenly spread ones."""
PROMPT_BYTES, RESPONSE_BYTES, WORD_BYTES = 1500, 11_000, 200
"""Room on the page for a prompt, for a response, and for each of its other texts, as HTML."""
SENTENCE_BYTES = 220
"""What the markup of a sentence takes of its response's room."""
MOST_COMPONENTS = 12
"""Reward components that are shown with a sample."""

T = TypeVar("T")


@dataclass(frozen=True)
class Excerpt:
    """A sample as the page shows it."""

    row: SampleRow
    """Its texts cut to their room."""
    why: str
    """Why it was chosen: best, worst, random; empty where nothing had to be chosen."""
    cut: str
    """What is shown of a prompt or response that is too long, in words; empty if all is shown."""


@dataclass(frozen=True)
class Selection:
    """The chosen samples of a run."""

    total: int
    """Samples that the run has kept."""
    shown: int
    """Of these, how many are on the page."""
    steps: list[tuple[int, list[Excerpt]]]
    """By step, all steps of a short run, evenly spread ones of a long run."""
    views: list[tuple[str, list[Excerpt]]]
    """Other ways through the run under their titles: the best, the worst, random ones, each level."""


def select_samples(path: Path, settings: Record) -> Selection:
    """Choose from a `samples.parquet`: the best, the worst and some random ones of steps, of the run and of its levels.

    Of responses with one reward luck decides, always the same way: the choice is a function of the file. A response
    that could not be scored is neither best nor worst. However many samples there are and however long they are, what
    is chosen takes at most some 4 MB of HTML.

    Args:
        path: the file; a missing one has no samples.
        settings: the configuration of the run, which knows the order of levels.
    """
    columns = read_sample_columns(path, ("step", "reward", "difficulty"))
    rewards = np.array([np.nan if r is None else r for r in columns["reward"]], dtype=np.float64)
    luck = np.random.default_rng(0).permutation(len(rewards))

    def choose(places: Sequence[int], counts: tuple[int, int, int]) -> dict[str, list[int]]:
        return _choose(np.array(places), rewards, luck, counts)

    steps = []
    by_step = _grouped(columns["step"])
    for step in _evenly(sorted(by_step), SHOWN_STEPS):
        few = len(by_step[step]) <= sum(PER_STEP)
        steps.append((step, {"": by_step[step]} if few else choose(by_step[step], PER_STEP)))
    views = []
    if len(rewards) > sum(PER_STEP):
        everywhere = choose(range(len(rewards)), OF_THE_RUN)
        views = [(why.capitalize(), {why: places}) for why, places in everywhere.items() if places]
        by_level = _grouped(columns["difficulty"])
        levels = in_order(by_level, settings)
        if len(levels) > 1:
            views += [(level, choose(by_level[level], PER_LEVEL)) for level in _evenly(levels, SHOWN_LEVELS)]

    found = [chosen for _, chosen in [*steps, *views]]
    places = sorted({place for chosen in found for places in chosen.values() for place in places})
    rows = dict(zip(places, map(_excerpt, read_samples(path, places, RESPONSE_BYTES // SENTENCE_BYTES)), strict=True))

    def excerpts(chosen: dict[str, list[int]]) -> list[Excerpt]:
        return [replace(rows[place], why=why) for why, places in chosen.items() for place in places]

    return Selection(
        total=len(rewards),
        shown=len(places),
        steps=[(step, excerpts(chosen)) for step, chosen in steps],
        views=[(title, excerpts(chosen)) for title, chosen in views],
    )


def _choose(
    places: NDArray[np.int64], rewards: NDArray[np.float64], luck: NDArray[np.int64], counts: tuple[int, int, int]
) -> dict[str, list[int]]:
    """The best, the worst and random ones of some places, none twice; `luck` orders all places of the file."""
    best, worst, random = counts
    scored = places[np.isfinite(rewards[places])]
    ranked = scored[np.lexsort((luck[scored], -rewards[scored]))]
    chosen = {"best": ranked[:best].tolist(), "worst": ranked[best:][-worst:][::-1].tolist()}
    others = np.setdiff1d(places, [*chosen["best"], *chosen["worst"]])
    return chosen | {"random": others[np.argsort(luck[others])][:random].tolist()}


def _grouped(values: Sequence[T]) -> dict[T, list[int]]:
    """Places by the value they hold, in order."""
    places: dict[T, list[int]] = defaultdict(list)
    for place, value in enumerate(values):
        places[value].append(place)
    return places


def _evenly(values: Sequence[T], most: int) -> list[T]:
    """All values, or evenly spread ones from the first to the last."""
    chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), most)).round().astype(int))
    return [values[index] for index in chosen]


def _excerpt(row: SampleRow) -> Excerpt:
    """A sample with its texts cut to their room."""
    prompt, response = _cut(row.prompt, PROMPT_BYTES), _cut(row.response, RESPONSE_BYTES)
    sentences, room = [], RESPONSE_BYTES
    for text, tokens, ratio in row.sentences:
        if (room := room - SENTENCE_BYTES) <= 0:
            break
        sentences.append((part := _cut(text, room), tokens, ratio))
        room -= _bytes(part) if part == text else room
    shown = sum(len(text) for text, *_ in sentences) if row.sentences else len(response)
    cut = [
        f"{part:,} of {whole:,} characters of the {name}"
        for name, part, whole in (("prompt", len(prompt), len(row.prompt)), ("response", shown, len(row.response)))
        if part < whole
    ]
    short = replace(
        row,
        prompt_id=_word(row.prompt_id),
        difficulty=_word(row.difficulty),
        answer=None if row.answer is None else _word(row.answer),
        breakdown={_word(name): value for name, value in list(row.breakdown.items())[:MOST_COMPONENTS]},
        prompt=prompt,
        response=response,
        sentences=sentences,
    )
    return Excerpt(short, why="", cut=" and ".join(cut))


def _word(text: str) -> str:
    short = _cut(text, WORD_BYTES)
    return short if short == text else f"{short}…"


def _cut(text: str, room: int) -> str:
    """The beginning of a text that takes at most `room` bytes as HTML."""
    part = text[:room]
    while (size := _bytes(part)) > room:
        part = part[: len(part) * room // size]
    return part


def _bytes(text: str) -> int:
    return len(str(escape(text)).encode("utf-8", "xmlcharrefreplace"))
