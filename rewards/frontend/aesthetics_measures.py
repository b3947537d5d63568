"""Measures of a screenshot with published formulas; what is typical of them is for `aesthetics` to say.

Sources: WCAG 2.2, success criteria 1.4.3 and 1.4.8 (contrast, line length); Hasler and Suesstrunk, "Measuring
colourfulness in natural images", 2003; Cohen-Or et al., "Color harmonization", 2006, after Matsuda; Ngo, Teo and Byrne,
"Modelling interface aesthetics", 2003; Rosenholtz, Li and Nakano, "Measuring visual clutter", 2007; Miniukovich and
De Angeli, "Computation of interface aesthetics", 2015. Where a formula needs the objects of a page, they are the
`Segments` found from its pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from evolpo.rewards.frontend.aesthetics_segments import Floats, Pixels, Segments

MISSING = float("nan")
"""The value of a measure of text where there is no text."""

# Hue templates of Matsuda as in Cohen-Or et al. 2006: (centre, width) of each sector, in degrees.
_TEMPLATES: Mapping[str, Sequence[tuple[float, float]]] = {
    "i": [(0, 18)],
    "V": [(0, 93.6)],
    "L": [(0, 18), (90, 79.2)],
    "I": [(0, 18), (180, 18)],
    "T": [(0, 180)],
    "Y": [(0, 93.6), (180, 18)],
    "X": [(0, 93.6), (180, 93.6)],
}


def contrast(seen: Segments) -> float:
    """How far the text reaches the contrast ratio of WCAG 2.2, level AA (success criterion 1.4.3), by letters; 0 to 1.

    log(ratio) / log(needed), at most 1, with 4.5 needed, or 3 from 24 pixels on: the logarithm, because the ratio is
    one of luminances and 2 is nearer to 4.5 than to nothing.
    """
    needed = [3.0 if line.glyph_height >= 17 else 4.5 for line in seen.lines]
    reached = [min(1.0, np.log(line.contrast) / np.log(least)) for line, least in zip(seen.lines, needed, strict=True)]
    return _by_letters(seen, reached)


def crowding(seen: Segments) -> float:
    """Share of the text with an edge too close: a quarter of a capital above or below, a whole one at the page's sides.

    A form of contour congestion (Miniukovich and De Angeli 2015): contours too near to each other to be told apart.
    """
    page_width = seen.busy.shape[1]
    crowded = []
    for line in seen.lines:
        left, top, right, bottom = line.box
        reach = max(2, round(0.25 * line.glyph_height))
        # Glyphs are surrounded by two pixels of their own edge.
        above = seen.busy[max(top - 2 - reach, 0) : max(top - 2, 0), left:right]
        below = seen.busy[bottom + 2 : bottom + 2 + reach, left:right]
        edges = sum(float(band.any(axis=0).mean()) for band in (above, below) if band.size)
        at_side = min(left, page_width - right) < line.glyph_height
        crowded.append(1.0 if at_side else min(edges, 1.0))
    return _by_letters(seen, crowded)


def _by_letters(seen: Segments, values: Sequence[float]) -> float:
    """Mean of one value a line, weighted by letters; `MISSING` without text."""
    return float(np.average(values, weights=[line.letters for line in seen.lines])) if values else MISSING


def line_length(seen: Segments) -> float:
    """Letters in the longest line; beyond 80 the eye loses its way (WCAG 2.2, success criterion 1.4.8)."""
    return max((line.letters for line in seen.lines), default=MISSING)


def colourfulness(seen: Segments) -> float:
    """sigma_rgyb + 0.3 mu_rgyb with rg = R - G, yb = (R + G) / 2 - B (Hasler and Suesstrunk 2003); 0 to about 180."""
    red, green, blue = np.moveaxis(seen.pixels.astype(np.float64), 2, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def palette(seen: Segments) -> float:
    """Dominant colours: bins of 16 levels a channel that cover a thousandth of the image.

    In the manner of Miniukovich and De Angeli 2015.
    """
    red, green, blue = np.moveaxis(seen.pixels >> 4, 2, 0).astype(np.int64)
    return float((np.bincount((red << 8 | green << 4 | blue).ravel()) >= 1e-3 * red.size).sum())


def disharmony(seen: Segments) -> float:
    """Mean distance of the hues from the best template of Matsuda, in degrees, weighted by saturation.

    F of Cohen-Or et al. 2006 over a histogram of 360 hues; 0 for a page in greys.
    """
    histogram = hue_histogram(seen.pixels)
    total = histogram.sum()
    if total == 0:
        return 0.0
    turns = np.fft.rfft(histogram)
    best = np.inf
    for sectors in _TEMPLATES.values():
        hues: Floats = np.arange(360, dtype=np.float64)
        distance = np.min([np.maximum(_hue_distance(hues, centre) - width / 2, 0) for centre, width in sectors], axis=0)
        # The cost of all 360 rotations of the template at once, as a circular correlation.
        costs = np.fft.irfft(turns * np.conj(np.fft.rfft(distance)), 360)
        best = min(best, float(costs.min()))
    return max(best, 0.0) / float(total)


def hue_histogram(pixels: Pixels) -> Floats:
    """[360] saturation (HSV) summed by hue, over every fourth pixel of both axes; greyish ones below 0.1 left out."""
    colours = pixels[::4, ::4].reshape(-1, 3).astype(np.float64)
    high, low = colours.max(axis=1), colours.min(axis=1)
    chroma = high - low
    saturation = chroma / np.maximum(high, 1)
    colours, high, chroma, saturation = (
        part[(saturation >= 0.1) & (chroma >= 8)] for part in (colours, high, chroma, saturation)
    )
    red, green, blue = colours.T
    hue = np.where(
        high == red,
        (green - blue) / chroma,
        np.where(high == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma),
    )
    hues = (hue * 60 % 360).astype(np.int64) % 360
    return np.bincount(hues, weights=saturation, minlength=360).astype(np.float64)


def _hue_distance(hues: Floats, centre: float) -> Floats:
    return np.asarray(np.abs((hues - centre + 180) % 360 - 180))


def balance(seen: Segments) -> float:
    """1 - (|v| + |h|) / 2 with v = (w_left - w_right) / max(w_left, w_right), h alike for top and bottom.

    Balance of Ngo et al. 2003, 0 to 1. A weight w is the sum over the content's pixels of their distances from the
    middle.
    """
    return float(1 - (_imbalance(seen.content.sum(axis=0)) + _imbalance(seen.content.sum(axis=1))) / 2)


def _imbalance(counts: np.ndarray) -> float:
    middle = (len(counts) - 1) / 2
    weights = counts * np.abs(np.arange(len(counts)) - middle)
    first, second = weights[: len(counts) // 2].sum(), weights[-(len(counts) // 2) :].sum()
    return float(abs(first - second) / max(first, second, 1))


def symmetry(seen: Segments) -> float:
    """How much of the content has its mirror image across the vertical axis, 0 to 1, on a grid of 20 x 32 cells.

    After the symmetry of Ngo et al. 2003, which sums over quadrants; cells tell more of a page apart.
    """
    rows = np.array_split(seen.content, 20, axis=0)
    grid = np.array([[cell.mean() for cell in np.array_split(row, 32, axis=1)] for row in rows])
    total = grid.sum()
    return float(1 - np.abs(grid - grid[:, ::-1]).sum() / (2 * total)) if total else MISSING


def alignment(seen: Segments) -> float:
    """1 - (n_v + n_h) / 2n for n blocks with n_v and n_h alignment points, 0 to 1 (regularity of Ngo et al. 2003).

    Edges within 4 pixels are one alignment point. Blocks may be aligned by left edges or by
    middles: what fits better counts.
    """
    left, top, right, bottom = seen.blocks.T
    count = len(left)
    if count < 2:
        return MISSING
    vertical = min(_distinct(left), _distinct((left + right) / 2))
    horizontal = min(_distinct(top), _distinct((top + bottom) / 2))
    return 1 - (vertical + horizontal) / (2 * count)


def _distinct(positions: np.ndarray) -> int:
    """Number of positions when those within 4 pixels of their neighbour are one."""
    return 1 + int((np.diff(np.sort(positions)) > 4).sum())


def whitespace(seen: Segments) -> float:
    """Share of the image without content, 0 to 1: one minus the density of Ngo et al. 2003."""
    return float(1 - seen.content.mean())


def edge_density(seen: Segments) -> float:
    """Share of pixels at a strong edge, 0 to 1: the simplest measure of clutter (Rosenholtz et al. 2007)."""
    return float(seen.edges.mean())


def elements(seen: Segments) -> float:
    """Number of blocks and text lines."""
    return float(len(seen.blocks) + len(seen.lines))


def regions(seen: Segments) -> float:
    """Number of areas of one colour that take at least a two-hundredth of the image: panels, bands, cards, pictures.

    A stand-in for the leaves of a space-based decomposition in Reinecke et al., "Predicting users' first impressions of
    website aesthetics", 2013.
    """
    return float((seen.surface_areas * 200 >= seen.content.size).sum())


def type_sizes(seen: Segments) -> float:
    """Distinct sizes of text: heights of lines in steps of a fifth that hold at least a fiftieth of the text each."""
    if not seen.lines:
        return MISSING
    steps = [round(np.log(line.glyph_height) / np.log(1.2)) for line in seen.lines]
    letters = np.bincount(steps, weights=[line.letters for line in seen.lines])
    return float((letters >= letters.sum() / 50).sum())


def hierarchy(seen: Segments) -> float:
    """Size of the largest line over that of the median one: a headline should stand out, but not shout."""
    if not seen.lines:
        return MISSING
    heights = [line.glyph_height for line in seen.lines]
    return float(max(heights) / np.median(heights))


MEASURES: Mapping[str, Callable[[Segments], float]] = {
    measure.__name__: measure
    for measure in (
        contrast,
        crowding,
        line_length,
        colourfulness,
        palette,
        disharmony,
        balance,
        symmetry,
        alignment,
        whitespace,
        edge_density,
        elements,
        regions,
        type_sizes,
        hierarchy,
    )
}
"""Every measure by name."""
