"""The charts of a comparison: for its page as SVG, and four of them as one picture for a paper.

An algorithm has the same colour, dash and marker in all of them. Colours are those of Okabe and Ito, "Color Universal
Design" (2008), which readers with any of the common colour blindnesses tell apart, without yellow, too pale on white.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evolpo.recipes.compare.results import AlgorithmResults, Lines, Results
from evolpo.recipes.drawing.charts import Drawn, as_svg, number, percent_of, style
from evolpo.rl.logs.files import replacing

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
MARKERS = "osD^vPX"


@dataclass(frozen=True)
class Look:
    """How an algorithm is drawn, wherever it is."""

    colour: str
    dash: Any
    marker: str


Looks = dict[str, Look]


def looks(names: Sequence[str]) -> Looks:
    """Colour, dash and marker by algorithm; after the last colour the first comes again, dashed."""
    return {
        name: Look(PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def charts(results: Results, how: Looks) -> list[Drawn]:
    """The charts of one table for the page; those without data are left out."""
    profile = f"Share of runs{' and difficulty levels' if results.levels else ''} that end above an accuracy."
    reward = f"Interquartile mean of {results.training} with its 95% band, over five steps; thin: each seed."
    drawn = [
        _chart("Held-out accuracy", BANDS, results, how, _heldout, _last_heldout),
        _chart("Training reward", reward, results, how, _reward, _last(lambda one: one.reward, number)),
        _chart("Final accuracy", FINAL, results, how, _final, _accuracy, "held-out problems right, %"),
        _chart("Performance profile", profile, results, how, _profile, _none, "accuracy, %"),
        _chart("Drawdown", DRAWDOWN, results, how, _drawdown, _none, "training reward"),
        _chart("Clipped tokens", CLIPPED, results, how, _clip, _last(lambda one: one.clip, percent_of)),
        _chart("Response length", LENGTH, results, how, _length, _last(lambda one: one.length, number)),
    ]
    return [chart for chart in drawn if chart]


BANDS = "Interquartile mean with its 95% band; thin: each seed."
FINAL = "Large: interquartile mean with its 95% interval; small: each seed."
DRAWDOWN = (
    "Largest fall of the smoothed training reward from its best so far; large: mean over seeds, small: each seed."
)
CLIPPED = "Share of response tokens whose unit was clipped, over five steps; thin: each seed."
LENGTH = "Tokens a response in training, over five steps; thin: each seed."


def write_picture(path: Path, results: Results, how: Looks) -> Path:
    """Write the picture for a paper, 2 x 2 at 300 dots an inch: accuracy and reward over steps, ends, drawdowns."""
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    panels = (
        ("a  Held-out accuracy", _heldout, "step"),
        ("b  Training reward", _reward, "step"),
        ("c  Final held-out accuracy", _final, "%"),
        ("d  Largest drawdown", _drawdown, "training reward"),
    )
    for axes, (title, draw, x_label) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        if not draw(axes, results, how):
            axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes, fontsize=8, color="#64748b")
        style(axes, x_label, whole=x_label == "step")
        axes.set_title(title, fontsize=9, loc="left")
    shown = [how[one.name] for one in results.algorithms]
    handles = [Line2D([], [], color=o.colour, linestyle=o.dash, marker=o.marker, markersize=4) for o in shown]
    legend = figure.legend(
        handles,
        [one.name for one in results.algorithms],
        loc="outside upper center",
        ncols=5,
        frameon=False,
        fontsize=8,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    with replacing(path) as temporary, mpl.rc_context({"font.family": "sans-serif"}):
        figure.savefig(temporary, format="png", dpi=300)
    return path


Draw = Callable[[Any, Results, Looks], bool]
Shown = Callable[[AlgorithmResults], str]


def _chart(
    title: str, note: str, results: Results, how: Looks, draw: Draw, shown: Shown, x_label: str = "step"
) -> Drawn | None:
    """A chart of the page, None if it would be empty; `shown` is the figure in the legend."""
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    if not draw(figure.add_subplot(), results, how):
        return None
    legend = [(one.name, how[one.name].colour, shown(one)) for one in results.algorithms]
    svg = as_svg(figure, x_label, whole=x_label == "step")
    return Drawn(title, note, _own_ids(svg, f"{results.table}-{title.lower().replace(' ', '-')}"), legend)


def _own_ids(svg: Markup, prefix: str) -> Markup:
    """The same picture with ids that no other on the page has: they are hashes of shapes, which charts share."""
    return Markup(re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", str(svg)))


def _none(one: AlgorithmResults) -> str:
    return ""


def _accuracy(one: AlgorithmResults) -> str:
    return percent_of(one.accuracy.value) if one.accuracy else "–"


def _last(lines: Callable[[AlgorithmResults], Lines | None], form: Callable[[Any], str]) -> Shown:
    """The last value of a curve."""

    def shown(one: AlgorithmResults) -> str:
        drawn = lines(one)
        return form(float(drawn.curve.values[-1])) if drawn else "–"

    return shown


_last_heldout = _last(lambda one: one.heldout, percent_of)


def _curves(axes: Any, results: Results, how: Looks, lines: Callable[[AlgorithmResults], Lines | None]) -> bool:
    """Curves with bands and thin lines of runs; whether there was anything to draw."""
    drawn = False
    for one in results.algorithms:
        found, look = lines(one), how[one.name]
        if not found:
            continue
        drawn, curve = True, found.curve
        axes.plot(curve.x, found.runs.T, color=look.colour, alpha=0.35, linewidth=0.6)
        if curve.band:
            axes.fill_between(curve.x, *curve.band, color=look.colour, alpha=0.15, linewidth=0)
        marker = look.marker if len(curve.x) <= 20 else ""
        axes.plot(curve.x, curve.values, color=look.colour, linestyle=look.dash, marker=marker, markersize=3.5)
    return drawn


def _percent(axes: Any) -> None:
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")


def _heldout(axes: Any, results: Results, how: Looks) -> bool:
    _percent(axes)
    return _curves(axes, results, how, lambda one: one.heldout)


def _reward(axes: Any, results: Results, how: Looks) -> bool:
    return _curves(axes, results, how, lambda one: one.reward)


def _clip(axes: Any, results: Results, how: Looks) -> bool:
    _percent(axes)
    return _curves(axes, results, how, lambda one: one.clip)


def _length(axes: Any, results: Results, how: Looks) -> bool:
    return _curves(axes, results, how, lambda one: one.length)


def _rows(axes: Any, results: Results) -> None:
    """One row an algorithm, the first on top, with its name at the axis."""
    names = [one.name for one in results.algorithms]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)


def _dots(axes: Any, row: int, values: Sequence[float], look: Look) -> None:
    """The runs of an algorithm as small points, spread a little so that equal ones show, below its own."""
    place = row + 0.22 + np.linspace(-0.08, 0.08, len(values)) if len(values) > 1 else [row + 0.22]
    axes.plot(values, place, color=look.colour, marker="o", markersize=3, linestyle="", alpha=0.6, markeredgewidth=0)


def _final(axes: Any, results: Results, how: Looks) -> bool:
    _rows(axes, results)
    for row, one in enumerate(results.algorithms):
        if not one.accuracy:
            continue
        look, value = how[one.name], 100 * one.accuracy.value
        if one.accuracy.interval:
            axes.plot([100 * limit for limit in one.accuracy.interval], [row, row], color=look.colour, linewidth=1.5)
        axes.plot([value], [row], color=look.colour, marker=look.marker, markersize=5)
        _dots(axes, row, [100 * final for final in one.final.values()], look)
    return any(one.accuracy for one in results.algorithms)


def _drawdown(axes: Any, results: Results, how: Looks) -> bool:
    _rows(axes, results)
    drawn = False
    for row, one in enumerate(results.algorithms):
        falls = [run.max_drawdown for run in one.stability.values() if run.max_drawdown is not None]
        if not falls:
            continue
        drawn, look = True, how[one.name]
        axes.plot([np.mean(falls)], [row], color=look.colour, marker=look.marker, markersize=5)
        _dots(axes, row, falls, look)
    axes.set_xlim(left=0)
    return drawn


def _profile(axes: Any, results: Results, how: Looks) -> bool:
    _percent(axes)
    for one in results.algorithms:
        if not one.profile:
            continue
        look, x = how[one.name], 100 * one.profile.x
        if one.profile.band:
            axes.fill_between(x, *one.profile.band, color=look.colour, alpha=0.12, linewidth=0, step="post")
        axes.plot(x, one.profile.values, color=look.colour, linestyle=look.dash, drawstyle="steps-post")
    axes.set_xlim(0, 100)
    return any(one.profile for one in results.algorithms)
