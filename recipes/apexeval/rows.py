"""What ApexEval says of each checkpoint: its figures, the ranking by them, a table, a picture, and what ranks well."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evolpo.model.files import DamagedError
from evolpo.recipes.runs.evaluation import EvaluationConfig, Judged, evaluation_metrics, pass_at_k
from evolpo.rl.logs.files import replacing

if TYPE_CHECKING:
    from rich.table import Table

Floats = NDArray[np.float64]

GREEDY = "greedy"
"""Name of the greedy accuracy among the figures."""
RESAMPLES = 2000
"""Bootstrap resamples of a correlation."""


@dataclass(frozen=True)
class Row:
    """One judged checkpoint."""

    checkpoint: str
    """Its folder."""
    step: int | None
    """Its step in the run that wrote it; None for a model that is no checkpoint of a run."""
    figures: Mapping[str, float | None]
    """Figures by name, see `figures`; None where there is nothing to take a mean of."""
    sampled: Sequence[Judged]
    """Verdicts of the tolerant verifier on the sampled responses, a problem each."""
    greedy: Sequence[Judged]
    """Verdicts of the strict verifier on one greedy response, a problem each."""


def figures(sampled: Sequence[Judged], greedy: Sequence[Judged], pass_at: Sequence[int]) -> dict[str, float | None]:
    """The figures of one checkpoint.

    `pass@K` and `greedy`, each with its 95% interval over problems (`_low`, `_high`); `LEVEL/pass@K` and `LEVEL/greedy`
    for each level of difficulty; `tokens` and `greedy_tokens`, means of a response; `problems`, how many were judged.
    """
    loose = evaluation_metrics(sampled, EvaluationConfig(samples=max(pass_at), pass_at=list(pass_at)))
    strict = evaluation_metrics(greedy, EvaluationConfig())
    found: dict[str, float] = {}
    for end in ("", "_low", "_high"):
        found |= {f"pass@{k}{end}": loose[f"eval/pass@{k}{end}"] for k in pass_at}
        found[f"{GREEDY}{end}"] = strict[f"eval/accuracy{end}"]
    found |= {"tokens": loose["eval/tokens_mean"], "greedy_tokens": strict["eval/tokens_mean"]}
    found["problems"] = loose["eval/problems"]
    for level in sorted({one.difficulty for one in sampled} - {""}):
        part = [one for one in sampled if one.difficulty == level]
        for k in pass_at:
            found[f"{level}/pass@{k}"] = _mean([pass_at_k(p.samples, p.correct, k) for p in part if p.samples >= k])
        found[f"{level}/{GREEDY}"] = _mean([one.accuracy for one in greedy if one.difficulty == level])
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def pass_levels(row: Row) -> list[int]:
    """The k of every pass@k among the figures, largest first."""
    names = [name.removeprefix("pass@") for name in row.figures if name.startswith("pass@")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Best first: by pass@k of the largest k; ties by that of the next smaller k, then by fewer steps.

    Source: Ling 2.0 report (arXiv 2510.22115), section 4.5, for the largest k; the rest is ours.
    """

    def key(row: Row) -> tuple[float, ...]:
        scores = [row.figures[f"pass@{k}"] for k in pass_levels(row)]
        # Rounded, so that the order in which a mean was summed makes no difference.
        passes = [math.inf if score is None else round(-score, 12) for score in scores]
        return (*passes, math.inf if row.step is None else row.step)

    return sorted(rows, key=key)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """One JSON line a checkpoint, the whole file at once."""
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))


def read_rows(path: Path) -> list[Row]:
    """What `write_rows` wrote; a missing file has no rows.

    Raises:
        DamagedError: a line is none.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], start=1):
        try:
            row = json.loads(line)
            rows.append(Row(**row | {name: [Judged(**one) for one in row[name]] for name in ("sampled", "greedy")}))
        except (ValueError, TypeError, KeyError, RecursionError):
            reason = f"is damaged: line {number} is no checkpoint's; delete the line to judge that one again"
            raise DamagedError(path, reason) from None
    return rows


def tables(rows: Sequence[Row]) -> list[Table]:
    """All checkpoints in the order given: accuracies with their intervals; then, if there are any, by difficulty."""
    levels = sorted({name.split("/")[0] for name in rows[0].figures if "/" in name})
    names = [f"pass@{k}" for k in reversed(pass_levels(rows[0]))]
    best = names[-1]
    parts = [_table(rows, [*names, GREEDY], ["tokens", "greedy_tokens"])]
    if levels:
        parts.append(_table(rows, [f"{level}/{name}" for level in levels for name in (best, GREEDY)], []))
    return parts


def _table(rows: Sequence[Row], shares: Sequence[str], numbers: Sequence[str]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    headings = [name.replace("/", "\n").replace("_", "\n") for name in (*shares, *numbers)]
    table = Table("checkpoint", "step", *headings, box=SIMPLE)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    names = [Path(row.checkpoint).name for row in rows]
    for row, name in zip(rows, names, strict=True):
        label = name if names.count(name) == 1 else row.checkpoint
        cells = [_share(row, name) for name in shares] + [_number(row.figures[name]) for name in numbers]
        table.add_row(label, "" if row.step is None else str(row.step), *cells)
    return table


def _share(row: Row, name: str) -> str:
    """A share in percent, its interval on a line of its own."""
    value, low, high = (row.figures.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return "unknown"
    return f"{value:.1%}" if low is None or high is None else f"{value:.1%}\n{100 * low:.0f}-{100 * high:.0f}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write a picture of every pass@k and of greedy accuracy, with their 95% intervals, over steps.

    Without distinct steps the checkpoints stand side by side in the order given.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    from evolpo.recipes.drawing.charts import COLOURS

    steps = [row.step for row in rows if row.step is not None]
    over_steps = len(set(steps)) == len(rows)
    places = steps if over_steps else list(range(len(rows)))
    drawn = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = drawn.add_subplot()
    names = [*(f"pass@{k}" for k in pass_levels(rows[0])), GREEDY]
    apart = 0.01 * (max(places) - min(places))
    for index, name in enumerate(names):
        points = [
            (place, *(row.figures[f"{name}{end}"] for end in ("", "_low", "_high")))
            for place, row in zip(places, rows, strict=True)
        ]
        known = np.array([point for point in sorted(points) if None not in point], dtype=float).reshape(-1, 4)
        x, value, low, high = known.T
        x = x + apart * (index - (len(names) - 1) / 2)  # so that intervals do not hide each other
        colour = COLOURS[index % len(COLOURS)]
        style = "--" if name == GREEDY else "-"
        axes.plot(x, value, color=colour, linestyle=style, marker="o", label=name)
        axes.vlines(x, low, high, color=colour, alpha=0.5)
    if over_steps:
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axes.set_xticks(places, [Path(row.checkpoint).name for row in rows], rotation=30, ha="right")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("share of problems")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e2e8f0")
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        drawn.savefig(temporary, format="png", dpi=150)


@dataclass(frozen=True)
class Correlation:
    """How a score ranks checkpoints, against how they came out. NaN where it is not defined."""

    checkpoints: int
    spearman: float
    spearman_low: float
    spearman_high: float
    kendall: float
    """tau-b."""
    kendall_low: float
    kendall_high: float
    undefined: float
    """Share of bootstrap resamples in which all scores or all outcomes were equal; the intervals leave them out."""


def rank_correlation(rows: Sequence[Row], outcomes: Sequence[float]) -> dict[str, Correlation]:
    """Rank correlation of the best pass@k, and of greedy accuracy, with the outcome of the same run from each row.

    The 95% intervals are percentiles of a bootstrap over checkpoints (fixed seed). With six checkpoints they often span
    half of [-1, 1] or more: that is what six checkpoints can say.

    Args:
        rows: of ApexEval, at least three.
        outcomes: of each row, for instance its accuracy after a short reinforcement learning run.

    Returns:
        The correlations by name, `pass@K` and `greedy`.

    Raises:
        ValueError: fewer than three rows, another number of outcomes, or a figure that is unknown.
    """
    if len(rows) < 3 or len(rows) != len(outcomes):
        raise ValueError(f"{len(rows)} checkpoints and {len(outcomes)} outcomes; give at least 3 of each, as many")
    return {
        name: _correlation(_known(rows, name), np.asarray(outcomes, dtype=float))
        for name in (f"pass@{pass_levels(rows[0])[0]}", GREEDY)
    }


def _known(rows: Sequence[Row], name: str) -> Floats:
    values = [row.figures[name] for row in rows]
    if None in values:
        raise ValueError(f"{name} of {rows[values.index(None)].checkpoint} is unknown")
    return np.asarray(values, dtype=float)


def _correlation(scores: Floats, outcomes: Floats) -> Correlation:
    draws = np.random.default_rng(0).integers(len(scores), size=(RESAMPLES, len(scores)))
    resampled = _coefficients(scores[draws], outcomes[draws])
    defined = resampled[np.isfinite(resampled).all(axis=1)]
    low, high = np.percentile(defined, [2.5, 97.5], axis=0) if len(defined) else np.full((2, 2), math.nan)
    rho, tau = zip(_coefficients(scores, outcomes).tolist(), low.tolist(), high.tolist(), strict=True)
    return Correlation(len(scores), *rho, *tau, 1 - len(defined) / RESAMPLES)


def _coefficients(scores: Floats, outcomes: Floats) -> Floats:
    """Spearman's rho and Kendall's tau-b of [..., n] pairs: [..., 2], NaN where all scores or all outcomes are equal.

    Both are cosines of signs of differences: tau of those of all pairs, rho of their sums over the second of a pair,
    which are twice the centred ranks. All resamples are done at once, which scipy's functions do not.

    Source: Daniels, Biometrika 33 (1944), 129.
    """
    x, y = (np.sign(values[..., :, None] - values[..., None, :]) for values in (scores, outcomes))  # [..., n, n]
    pairs = (x.sum(-1), y.sum(-1)), (x.reshape(*x.shape[:-2], -1), y.reshape(*y.shape[:-2], -1))
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is wanted
        return np.stack([(a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1)) for a, b in pairs], axis=-1)
