"""What people like in a screenshot: seven measures, weighed as people weighed them who compared pages in pairs.

Each measure goes from 0 at `worst` to 1 at `best` and no farther: beyond the pages that people saw there is nothing to
gain. The weights, `taste.json`, are fitted by `evolpo bench aesthetics FOLDER coefficients=FILE`, to 100 pages and
5,094 votes (Calista AI, "Website aesthetics", MIT licence). They are never negative: which way a measure points is
decided before, by what is known of it:

* `line_length`, `letters`, `crowding`: long lines (WCAG 2.2, success criterion 1.4.8), much text, and contours that
  touch (contour congestion of Miniukovich and De Angeli, "Computation of interface aesthetics", 2015) make a page look
  complex, and complex pages are liked less (Reinecke et al., "Predicting users' first impressions of website
  aesthetics", 2013);
* `type_sizes`: an order of sizes instead of one size for all, up to what pages have;
* `three_colours`, `saturation`: plain grounds against many shades, and grey against colour: colourfulness is the second
  measure of Reinecke et al. 2013;
* `pictures`: areas of pictures, as in the quantities behind their complexity.

The value is a weighted mean inside text and inside colour, and a weighted geometric mean of the two: a page that is
nothing but headlines, or nothing but a picture, has one of them alone. Without text the measures of text are at their
worst, and below the least text that any compared page has the value falls in proportion.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evolpo.rewards.frontend.aesthetics_measures import MISSING, crowding, line_length, type_sizes
from evolpo.rewards.frontend.aesthetics_segments import Pixels, Segments

TILE = 16
"""Side of the squares that are looked at for pictures, in pixels."""
SHADES = 20
"""Colours, of 32 levels a channel, from which on a square belongs to a picture: flat design and text stay below."""


def letters(seen: Segments) -> float:
    """About how many letters stand on the page; `MISSING` without any."""
    return sum(line.letters for line in seen.lines) or MISSING


def three_colours(seen: Segments) -> float:
    """Share of the page in its three commonest colours, of 16 levels a channel; 0 to 1."""
    red, green, blue = np.moveaxis(seen.pixels >> 4, 2, 0).astype(np.int64)
    counts = np.bincount((red << 8 | green << 4 | blue).ravel())
    return float(np.sort(counts)[-3:].sum() / red.size)


def saturation(seen: Segments) -> float:
    """Mean saturation (HSV), 0 to 1."""
    high, low = seen.pixels.max(axis=2).astype(np.float64), seen.pixels.min(axis=2)
    return float(np.mean((high - low) / np.maximum(high, 1)))


def pictures(seen: Segments) -> float:
    """Share of the page in squares of at least `SHADES` colours whose neighbours are such, too; 0 to 1."""
    from scipy import ndimage

    rich = _shades(seen.pixels) >= SHADES
    return float(ndimage.binary_opening(rich, np.ones((2, 2))).mean())


def _shades(pixels: Pixels) -> np.ndarray:
    """[rows, columns] number of colours, of 32 levels a channel, in each whole square."""
    rows, columns = pixels.shape[0] // TILE, pixels.shape[1] // TILE
    red, green, blue = np.moveaxis(pixels[: rows * TILE, : columns * TILE] >> 3, 2, 0).astype(np.int32)
    squares = (red << 10 | green << 5 | blue).reshape(rows, TILE, columns, TILE).swapaxes(1, 2)
    ordered = np.sort(squares.reshape(rows, columns, TILE * TILE), axis=2)
    return np.asarray((np.diff(ordered, axis=2) > 0).sum(axis=2) + 1)


LIKED: Mapping[str, tuple[Callable[[Segments], float], int]] = {
    "line_length": (line_length, -1),
    "letters": (letters, -1),
    "crowding": (crowding, -1),
    "three_colours": (three_colours, -1),
    "saturation": (saturation, 1),
    "pictures": (pictures, 1),
    "type_sizes": (type_sizes, 1),
}
"""The measures, and whether more (1) or less (-1) is better."""
PARTS = (("line_length", "letters", "crowding", "type_sizes"), ("three_colours", "saturation", "pictures"))
"""Text and colour: what one lacks the other does not make good."""
LEAST = 0.05
"""Least value of a part, so that differences in the other stay visible."""
LEAST_LETTERS = 40
"""About the least text that one of the compared pages has."""
LOGARITHMIC = {"letters"}
"""Measures of which the ratio counts."""


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One measure: where it counts nothing, where it counts fully, and how much."""

    worst: float
    best: float
    weight: float
    """Share of the whole; all weights add up to 1."""


Coefficients = Mapping[str, Coefficient]


def reach_all(measured: Mapping[str, float], coefficients: Coefficients | None = None) -> dict[str, float]:
    """How far each measure is from its worst to its best, 0 to 1.

    Args:
        measured: every measure of `LIKED` by name; NaN counts as the worst.
        coefficients: None takes those that come with the package.
    """
    found = coefficients or shipped()
    return {name: reached(name, measured[name], one.worst, one.best) for name, one in found.items()}


def taste(measured: Mapping[str, float], coefficients: Coefficients | None = None) -> float:
    """How much people would like a page, 0 to 1; arguments as of `reach_all`."""
    found = coefficients or shipped()
    reach = reach_all(measured, found)
    value = 0.0 if math.isnan(measured["letters"]) else min(1.0, measured["letters"] / LEAST_LETTERS)
    for names in PARTS:
        weight = sum(found[name].weight for name in names)
        if weight > 0:
            mean = sum(found[name].weight * reach[name] for name in names) / weight
            value *= max(LEAST, mean) ** weight
    return value


def reached(name: str, value: float, worst: float, best: float) -> float:
    """How far a measure is from its worst to its best, 0 to 1; 0 for NaN."""
    if math.isnan(value):
        return 0.0
    if name in LOGARITHMIC:
        value, worst, best = (math.log(max(one, 1.0)) for one in (value, worst, best))
    return min(1.0, max(0.0, (value - worst) / (best - worst)))


def measure_taste(seen: Segments) -> dict[str, float]:
    """Every measure of `LIKED` by name; NaN where it cannot be taken."""
    return {name: measure(seen) for name, (measure, _) in LIKED.items()}


@functools.cache
def shipped() -> Coefficients:
    """The coefficients that come with the package."""
    found = json.loads(Path(__file__).with_name("taste.json").read_text(encoding="utf-8"))
    return {name: Coefficient(**one) for name, one in found["coefficients"].items()}
