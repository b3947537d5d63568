"""The page and the picture of `evolpo pareto`: accuracy against mean tokens, and tables of where the methods end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evolpo.recipes.drawing.charts import COLOURS, Drawn, as_svg, percent_of, style
from evolpo.recipes.drawing.pages import points, render
from evolpo.recipes.pareto.statistics import RESAMPLES, Estimate, Figures
from evolpo.recipes.pareto.study import Checkpoint, Level, Study
from evolpo.rl.logs.files import replacing

MARKERS = "osD^vPX"
"""Shapes of the methods' points, so that colour is not all that tells them apart."""
TOKENS = "mean tokens a response"
PATHS = "Every checkpoint, joined run by run; large: the method's end, with its 95% intervals."
ENDS = "The end of each seed, small, and of each method, with its 95% intervals."


def write_page(study: Study, path: Path) -> Path:
    """Write the page and return its path."""
    everything, *levels = study.levels
    legend = [
        (method, colour, percent_of(everything.methods[method].accuracy.value)) for method, colour, _ in _looks(study)
    ]
    return render(
        Path(__file__).with_name("pareto.html"),
        path,
        study=study,
        everything=everything,
        levels=levels,
        pictures=[_chart(study, everything, paths, legend) for paths in (True, False)],
        panels=[_chart(study, level, True, []) for level in levels],
        verdicts=[(m, verdict(one, study.baseline)) for m, one in everything.methods.items() if m != study.baseline],
        colours={method: colour for method, colour, _ in _looks(study)},
        resamples=RESAMPLES,
        share=share,
        change=change,
        tokens=tokens,
    )


def write_picture(study: Study, path: Path) -> None:
    """Write the picture for a paper: all problems above, a panel a level below."""
    everything, *levels = study.levels
    figure = Figure(figsize=(7.0, 5.4 if levels else 3.2), layout="constrained")
    parts = figure.subfigures(2 if levels else 1, 1, squeeze=False, height_ratios=[1.35, 1] if levels else [1])[:, 0]
    for axes, paths, title in zip(parts[0].subplots(1, 2), (True, False), ("all checkpoints", "final"), strict=True):
        _draw(axes, study, everything, paths)
        axes.set_title(title, fontsize=9, loc="left")
    for axes, level in zip(parts[-1].subplots(1, len(levels), squeeze=False)[0] if levels else (), levels, strict=True):
        _draw(axes, study, level, True)
        axes.set_title(level.name, fontsize=9, loc="left", parse_math=False)
    for axes in figure.axes:
        style(axes, TOKENS, whole=False)
    for part in parts:
        part.axes[0].set_ylabel("accuracy", color="#64748b", fontsize=8)
    handles = [Line2D([], [], color=colour, marker=marker, markersize=6) for _, colour, marker in _looks(study)]
    legend = figure.legend(handles, list(study.seeds), loc="outside upper left", ncols=4, frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    with replacing(path) as temporary, mpl.rc_context({"font.family": "sans-serif"}):
        figure.savefig(temporary, format="png", dpi=300)


def verdict(one: Figures, baseline: str) -> str:
    """What a method does against the baseline, in a sentence that claims no more than the intervals do."""
    assert one.saved is not None
    assert one.gain is not None
    value, low, high = (f"{100 * abs(part):.1f}" for part in (one.saved.value, one.saved.low, one.saved.high))
    if one.saved.low > 0:
        spent = f"{value}% fewer tokens than {baseline} (95% interval {low} to {high})"
    elif one.saved.high < 0:
        spent = f"{value}% more tokens than {baseline} (95% interval {high} to {low})"
    else:
        spent = f"no difference in tokens to {baseline} beyond the interval ({share(one.saved)} saved)"
    if one.gain.low <= 0 <= one.gain.high:
        return f"{spent}; no difference in accuracy beyond the interval ({change(one.gain)} points)."
    return f"{spent}; accuracy {change(one.gain)} points."


def share(one: Estimate | None) -> str:
    """A share and its interval in percent; a dash for the baseline's own."""
    if one is None:
        return "–"
    value, low, high = (f"{100 * part:.1f}".replace("-", "−") for part in (one.value, one.low, one.high))
    return f"{value}% [{low}, {high}]"


def change(one: Estimate | None) -> str:
    """A difference of shares and its interval in percentage points; a dash for the baseline's own."""
    return "–" if one is None else f"{points(one.value)} [{points(one.low)}, {points(one.high)}]"


def tokens(one: Estimate) -> str:
    """Mean tokens and their interval."""
    return f"{one.value:.1f} [{one.low:.1f}, {one.high:.1f}]"


def _looks(study: Study) -> list[tuple[str, str, str]]:
    """(method, colour, marker) of all methods; one method looks the same in every picture."""
    return [(m, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, m in enumerate(study.seeds)]


def _chart(study: Study, level: Level, paths: bool, legend: list[tuple[str, str, str]]) -> Drawn:
    """A picture of the page."""
    figure = Figure(figsize=(4.6, 3.1), layout="constrained")
    _draw(figure.add_subplot(), study, level, paths)
    title = f"{level.name}, {level.problems} problems" if not legend else "On the way" if paths else "At the end"
    return Drawn(title, (PATHS if paths else ENDS) if legend else "", as_svg(figure, TOKENS, whole=False), legend)


def _draw(axes: Any, study: Study, level: Level, paths: bool) -> None:
    """Accuracy against tokens: runs as paths or as their ends, methods with intervals, and the front."""
    for method, colour, marker in _looks(study):
        for run in _runs(study, method, level):
            shown = run if paths else run[-1:]
            x, y = [one.tokens.value for one in shown], [one.accuracy.value for one in shown]
            size = 2.5 if paths else 4
            axes.plot(x, y, color=colour, alpha=0.4, linewidth=0.8, marker=marker, markersize=size, markeredgewidth=0)
        end = level.methods[method]
        place = {"x": end.tokens.value, "y": end.accuracy.value, "xerr": _bars(end.tokens), "yerr": _bars(end.accuracy)}
        axes.errorbar(**place, color=colour, marker=marker, markersize=8, markeredgecolor="white", zorder=3)
    _draw_front(axes, [level.methods[method] for method in level.front])
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    if not paths:
        for method, colour, _ in _looks(study):
            _name(axes, method, level.methods[method], colour)


def _draw_front(axes: Any, ends: Sequence[Figures]) -> None:
    """The front as a step line, from the axis below its cheapest point to the right edge."""
    (_, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    x = [ends[0].tokens.value, *(one.tokens.value for one in ends), right]
    y = [bottom, *(one.accuracy.value for one in ends), ends[-1].accuracy.value]
    axes.plot(x, y, drawstyle="steps-post", color="#64748b", linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    axes.set(xlim=(None, right), ylim=(bottom, None))


def _name(axes: Any, method: str, end: Figures, colour: str) -> None:
    """A method's name beside its end, on the side where there is more room."""
    place = end.tokens.value, end.accuracy.value
    left = place[0] > sum(axes.get_xlim()) / 2
    look = {"ha": "right" if left else "left", "color": colour, "fontsize": 8, "parse_math": False}
    axes.annotate(method, place, (-7 if left else 7, 6), textcoords="offset points", **look)


def _bars(one: Estimate) -> list[list[float]]:
    """Lengths of an interval's two arms; a limit that rounding put beyond the value has none."""
    return [[max(one.value - one.low, 0.0)], [max(one.high - one.value, 0.0)]]


def _runs(study: Study, method: str, level: Level) -> list[list[Checkpoint]]:
    """The checkpoints of a method at a level, run by run, in the order of their steps."""
    chosen = [one for one in study.checkpoints if (one.method, one.level) == (method, level.name)]
    return [list(run) for _, run in groupby(chosen, key=lambda one: one.seed)]
