"""Charts of a run: lines over steps as inline SVG, for pages that need no network."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Record = Mapping[str, Any]
Floats = NDArray[np.float64]

COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#0891b2", "#94a3b8")
"""Blue, orange, green, purple, red, teal, grey: the curves of a chart in their order."""


MOST_POINTS = 600
"""Points of a curve; the chart is some 300 pixels wide."""


@dataclass(frozen=True)
class Line:
    """One curve of a chart: the key in `metrics.jsonl`, what the legend calls it, and the keys of its band."""

    key: str
    label: str
    band: tuple[str, str] | None = None


@dataclass(frozen=True)
class Chart:
    """One chart of the page: what it shows, in one sentence for the reader, and its curves.

    A long curve that is noisy gets its running mean on top.
    """

    title: str
    note: str
    lines: tuple[Line, ...]
    percent: bool = False
    noisy: bool = True
    log: bool = False


@dataclass(frozen=True)
class Drawn:
    """A chart ready for the page; `legend` holds (label, colour, latest value)."""

    title: str
    note: str
    svg: Markup
    legend: list[tuple[str, str, str]]


def finite(value: Any) -> bool:
    """Whether this is a number, and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: Any) -> str:
    """Three significant digits, thousands separated; a dash for what is not known."""
    if not finite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent_of(value: Any) -> str:
    """A share in percent; a dash for what is not known."""
    return f"{100 * value:.1f}%" if finite(value) else "–"


def all_keys(records: Sequence[Record]) -> set[str]:
    """Every key that some record has."""
    return set().union(*records)


def series(records: Sequence[Record], key: str) -> Floats:
    """Values of a key by record, NaN where it is absent or was not finite; [records]."""
    return np.array([r[key] if finite(r.get(key)) else np.nan for r in records], dtype=np.float64)


def draw(records: Sequence[Record], chart: Chart, marks: Sequence[tuple[float, str]] = ()) -> Drawn | None:
    """Draw the curves of a chart over the steps, with named moments as vertical lines; None if there is no value."""
    steps = series(records, "step")
    figure = Figure(figsize=(4.6, 2.5), layout="constrained")
    axes = figure.add_subplot()
    legend, lowest = [], math.inf
    for index, line in enumerate(chart.lines):
        values = series(records, line.key)
        known = np.isfinite(values)
        if not known.any():
            continue
        colour = COLOURS[index % len(COLOURS)]
        if line.band:
            low, high = (series(records, key)[known] for key in line.band)
            some = thinned(values[known])
            axes.fill_between(steps[known][some], low[some], high[some], color=colour, alpha=0.15, linewidth=0)
        lowest = min(lowest, values[known].min())
        _plot(axes, steps[known], values[known], colour, running_mean=chart.noisy and known.sum() > 40)
        legend.append((line.label, colour, (percent_of if chart.percent else number)(float(values[known][-1]))))
    if not legend:
        return None
    if chart.percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    if chart.log and lowest > 0:
        axes.set_yscale("log")
    for step, name in marks:
        axes.axvline(step, color="#94a3b8", linewidth=0.8, linestyle=(0, (3, 2)), zorder=0.5)
        # Slanted above the curves, so that neighbours keep their names apart; a name is no formula, whatever it holds.
        look: dict[str, Any] = {"rotation": 45, "color": "#64748b", "fontsize": 7, "parse_math": False}
        axes.text(step, 1.02, name, transform=axes.get_xaxis_transform(), va="bottom", ha="left", **look)
    return Drawn(chart.title, chart.note, as_svg(figure), legend)


def _plot(axes: Any, steps: Floats, values: Floats, colour: str, running_mean: bool) -> None:
    """A curve; with its running mean on top it steps back to a pale one."""
    some = thinned(values)
    look: dict[str, Any] = {"alpha": 0.3 if running_mean else 1, "marker": "o" if len(values) <= 20 else ""}
    axes.plot(steps[some], values[some], color=colour, linewidth=1.6, markersize=3, **look)
    if running_mean:
        window = np.ones(max(3, len(values) // 15))
        mean = np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
        some = thinned(mean)
        axes.plot(steps[some], mean[some], color=colour, linewidth=1.8)


def thinned(values: Floats) -> NDArray[np.int64]:
    """Indices of the values to draw: all of a short curve; of each part of a long one the smallest and the largest.

    A spike of one step among thousands stays on the page.
    """
    if len(values) <= MOST_POINTS:
        return np.arange(len(values))
    parts = np.array_split(np.arange(len(values)), MOST_POINTS // 2)
    ends = [[0], [len(values) - 1]]
    picks = [[part[values[part].argmin()], part[values[part].argmax()]] for part in parts]
    return np.unique(np.concatenate([*ends, *picks]))


def style(axes: Any, x_label: str, whole: bool = True) -> None:
    """Give axes the look of all charts; `whole` puts ticks of x at whole numbers alone."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#cbd5e1")
    axes.tick_params(colors="#64748b", labelsize=8, length=3)
    axes.yaxis.get_offset_text().set(color="#64748b", fontsize=8)
    axes.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=whole))
    axes.set_xlabel(x_label, color="#64748b", fontsize=8)


def as_svg(figure: Figure, x_label: str = "step", whole: bool = True) -> Markup:
    """The figure as inline SVG that takes the width of its place; text stays text, in the font of the page."""
    (axes,) = figure.axes
    style(axes, x_label, whole)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "evolpo"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # The ids of groups repeat from figure to figure, and an id may stand on a page only once.
    svg = re.sub(r"<g id=\"[^\"]*\"", "<g", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return Markup(re.sub(r'(<svg [^>]*?) width="[^"]*"| height="[^"]*"', r"\1", svg, count=2))
