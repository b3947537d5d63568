"""How good does a screenshot look? Computed, without a judge: sound times the root of what people like.

*Taste* (`taste`) is fitted to comparisons by people. *Soundness* has no part in that: it sees faults that no compared
page has. Every measure of `aesthetics_measures` is compared with its distribution over honest pages,
`percentiles.json`, which `evolpo bench frontend percentiles=FILE` makes anew: the middle half of the honest pages
counts fully, the rest of them at least half, and what lies beyond the most extreme of them counts less the farther out
it is. Means inside a group of related measures, a geometric mean over the groups: a page must not fail in any of them.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evolpo.rewards.base import Score
from evolpo.rewards.frontend.aesthetics_measures import MEASURES
from evolpo.rewards.frontend.aesthetics_segments import read_png, segment
from evolpo.rewards.frontend.taste import measure_taste, reach_all, taste

GROUPS: Mapping[str, Sequence[str]] = {
    "contrast": ("contrast",),
    "reading": ("crowding", "line_length"),
    "colour": ("colourfulness", "palette", "disharmony"),
    "layout": ("balance", "symmetry", "alignment", "whitespace"),
    "complexity": ("edge_density", "elements", "regions"),
    "type": ("type_sizes", "hierarchy"),
}
"""Related measures, which count as one together."""
HIGHER_IS_BETTER = {"contrast", "balance", "symmetry", "alignment", "elements", "regions"}
LOWER_IS_BETTER = {"crowding", "line_length", "disharmony"}
"""For the measures in neither set, both too little and too much are bad."""
TOLERANCE: Mapping[str, float] = {
    "contrast": 0.4,
    "crowding": 0.3,
    "line_length": 40,
    "colourfulness": 40,
    "palette": 15,
    "disharmony": 10,
    "balance": 0.3,
    "symmetry": 0.3,
    "alignment": 0.3,
    "whitespace": 0.2,
    "edge_density": 0.08,
    "elements": 5,
    "regions": 2,
    "type_sizes": 2,
    "hierarchy": 1.5,
}
"""How much of each measure makes a clear difference, in its own unit: about a third of the range that pages have."""
MISSING_VALUE = 0.1
"""Normalised value of a measure that cannot be taken, such as contrast without text: as far out as the worst pages."""
LEAST = 0.02
"""Least value of a group, so that one failing group leaves differences in the others visible."""
LEVELS = tuple(range(0, 101, 5))
"""The percentiles that are kept of each measure."""

Percentiles = Mapping[str, Sequence[float]]


def aesthetics_from_image(png: bytes) -> Score:
    """Judge a screenshot by computed measures alone.

    Args:
        png: a PNG file. Lengths are taken for CSS pixels; screenshots wider than 1600 pixels are halved, of long ones
            only the top is looked at.

    Returns:
        Value 0 to 1, `sound` times the root of `taste`, both in its metrics, with `raw/NAME` of every measure,
        `liked/NAME` (how far it is from what people like least to what they like most), `typical/NAME`, `group/NAME`,
        and `judge` 0.0 (there was none). `model_fail` if nothing is drawn on it; `infra_error` if it is no readable
        PNG.
    """
    started = time.perf_counter()
    try:
        measured = raw_measures(png)
    except ValueError as error:
        return Score.infra_error(str(error), time.perf_counter() - started)
    if measured["edge_density"] == 0 or measured["elements"] == 0:
        return replace(Score.model_fail("nothing is drawn on the page"), elapsed_s=time.perf_counter() - started)
    typical = {name: typicality(name, measured[name], levels) for name, levels in percentiles().items()}
    groups = {group: max(LEAST, float(np.mean([typical[name] for name in names]))) for group, names in GROUPS.items()}
    liked, sound = taste(measured), math.exp(sum(map(math.log, groups.values())) / len(groups))
    metrics = {"judge": 0.0, "taste": liked, "sound": sound}
    metrics |= {f"liked/{name}": value for name, value in reach_all(measured).items()}
    metrics |= {f"group/{name}": value for name, value in groups.items()}
    metrics |= {f"raw/{name}": value for name, value in measured.items() if not math.isnan(value)}
    metrics |= {f"typical/{name}": value for name, value in typical.items()}
    # The root, so that text too faint to be counted costs more by its faults than it gains by being gone.
    value = sound * math.sqrt(liked)
    note = {"judge": "no judge: computed measures alone"}
    return Score(value, metrics=metrics, artifacts=note, elapsed_s=time.perf_counter() - started)


def raw_measures(png: bytes) -> dict[str, float]:
    """Every measure of a screenshot by name; NaN where it cannot be taken. Raises ValueError on a bad PNG."""
    seen = segment(read_png(png))
    return {name: measure(seen) for name, measure in MEASURES.items()} | measure_taste(seen)


def typicality(name: str, value: float, levels: Sequence[float]) -> float:
    """How typical of honest pages a value is, 0 to 1.

    1 in the middle half of the honest pages, and on the good side of it for measures that have one; from there straight
    down to 1/2 by rank at the most extreme honest page, and beyond it 1/2 exp(-d / tolerance), with d the distance from
    that page. Never less than exp(-d / tolerance) with d the distance from the middle half, so that a small difference
    counts little even where all honest pages agree.

    Args:
        name: the measure.
        value: its value; NaN gives `MISSING_VALUE`.
        levels: its percentiles over the honest pages, `LEVELS`, ascending.
    """
    if math.isnan(value):
        return MISSING_VALUE
    low, high = np.interp([25, 75], LEVELS, levels)
    if low <= value <= high:
        return 1.0
    if name in (LOWER_IS_BETTER if value < low else HIGHER_IS_BETTER):
        return 1.0
    end, quartile = (levels[0], low) if value < low else (levels[-1], high)
    tolerance = TOLERANCE[name]
    if levels[0] <= value <= levels[-1]:
        rank = float(np.interp(value, levels, LEVELS)) / 100
        by_rank = min(1.0, 0.5 + 2 * min(rank, 1 - rank))
    else:
        by_rank = 0.5 * math.exp(-abs(value - end) / tolerance)
    return max(by_rank, math.exp(-abs(value - quartile) / tolerance))


def reference_percentiles(screenshots: Iterable[bytes]) -> dict[str, list[float]]:
    """Percentiles `LEVELS` of every measure over screenshots (PNG) of honest pages.

    Raises:
        ValueError: a bad PNG, or a measure that can be taken of none of them.
    """
    measured = [raw_measures(png) for png in screenshots]
    for name in MEASURES:
        if all(math.isnan(one[name]) for one in measured):
            raise ValueError(f"{name} cannot be taken of any of the {len(measured)} screenshots")
    return {
        name: [round(float(level), 6) for level in np.nanpercentile([one[name] for one in measured], LEVELS)]
        for name in MEASURES
    }


@functools.cache
def percentiles() -> Percentiles:
    """The reference distribution that comes with the package."""
    found: Percentiles = json.loads(Path(__file__).with_name("percentiles.json").read_text(encoding="utf-8"))
    return found
