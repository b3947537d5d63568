"""`evolpo bench aesthetics FOLDER`: does the aesthetics of screenshots agree with what people said of them?

The folder holds `images/` (PNG, WebP or JPEG) and what people said: `comparisons.csv`, a row a pair (`im1`, `im2`:
names of images without their endings; `w1`, `w2`: how often each was preferred), or `ratings.csv` (`image`, `score`).
Of comparisons Bradley-Terry strengths are made.

Two figures are given. *Shipped*: the reward as it comes. *Refitted*: taste by weights fitted to other pages of the
folder, ten parts in turn, ten times; for the folder that the shipped weights were fitted to only this one is honest.

With `judge` a multimodal judge is asked about the same pages, and about pairs of them; see `aesthetics_judge`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evolpo import InputError
from evolpo.recipes.bench.aesthetics_fit import Floats, agreement, cross_validated, fit
from evolpo.recipes.bench.aesthetics_judge import judge_report
from evolpo.recipes.drawing.charts import COLOURS, style
from evolpo.recipes.runs.checks import check_not_negative
from evolpo.rewards.frontend.aesthetics import aesthetics_from_image
from evolpo.rewards.frontend.taste import LIKED, Coefficients, shipped
from evolpo.rewards.judges.make import make_judge
from evolpo.rl.logs.files import replacing, write_json
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress

ENDINGS = (".png", ".webp", ".jpg", ".jpeg")


@dataclass
class BenchAestheticsConfig:
    """`evolpo bench aesthetics FOLDER`: agreement of the aesthetics with people, and the fit of its weights."""

    folder: str = ""
    """Folder with `images/` and `comparisons.csv` or `ratings.csv`."""
    coefficients: str = ""
    """File to write weights fitted to all pages of the folder to; empty writes none."""
    judge: Any = None
    """A multimodal judge to hold against people as well: base_url and model, or module:attribute."""
    pairs: int = 200
    """Pairs of pages that the judge is asked about, in both orders."""
    seed: int = 0
    """Seed of the parts, and of the pairs."""
    output: str = "outputs/bench/aesthetics.json"
    """File of the results; a scatter plot is put beside it."""

    def __post_init__(self) -> None:
        """Check that there is a folder."""
        check_not_negative(self, "seed", "pairs")
        if not self.folder:
            raise InputError("folder: missing; give a folder with images/ and comparisons.csv or ratings.csv")


def main(config: BenchAestheticsConfig) -> None:
    """Run `evolpo bench aesthetics` from the command line: the figures in a few lines."""
    report = bench_aesthetics(config)
    for name in ("shipped", "refitted"):
        one = report[name]
        print(f"{name}: {_in_words(one)}")
    print(f"{report['n']} pages; {report['method']} stands for the folder")
    if "judge" in report:
        _print_judge(report["judge"])
    print(config.output)


def _in_words(agreed: Mapping[str, float]) -> str:
    return f"rank correlation {agreed['spearman']:+.2f}, pairs in order {agreed['pairs_right']:.1%}"


def _print_judge(found: Mapping[str, Any]) -> None:
    print(
        f"judge, all items alike: {_in_words(found['shipped'])}; {found['pages']} pages, {found['unjudged']} unjudged"
    )
    print(f"judge, items weighed by other pages: {_in_words(found['refitted'])}")
    pairs = found["pairs"]
    if "right" in pairs:
        print(f"judge, {pairs['judged']:.0f} pairs: {pairs['right']:.1%} right, {pairs['consistent']:.1%} consistent")
    print(f"checklist_weights: {found['checklist_weights']}")


def bench_aesthetics(config: BenchAestheticsConfig) -> dict[str, Any]:
    """Score all pages, fit weights in turn, write and return the figures.

    Returns:
        `n` pages; `method`: `shipped`, or `refitted` if the shipped weights were fitted to these very pages; `spearman`
        and `pairs_right` (share of the pairs of pages in the order of their scores by people) of that method;
        `shipped`, `refitted`: both of them; `rows`: each page's `score` by people, `value` and `refitted`. With a
        judge `judge`: see `judge_report`, with `checklist_weights` for the reward.

    Raises:
        InputError: the folder lacks its files, or they name images that are not there.
    """
    said = scores_by_people(Path(config.folder))
    pages = sorted(said)
    judge = None if config.judge is None else make_judge(config.judge)
    people = np.array([said[page] for page in pages])
    judged = {}
    if judge is not None:
        images = {page: _png(Path(config.folder) / "images", page) for page in pages}
        found, weights = judge_report(images, people, judge, config.pairs, config.seed)
        judged = {"judge": found | {"checklist_weights": weights}}
    measured, values = _measure(Path(config.folder) / "images", pages)
    coefficients = fit(measured, people)
    refitted = cross_validated(measured, people, config.seed)
    both = {"shipped": agreement(values, people), "refitted": agreement(refitted, people)}
    method = "refitted" if coefficients == shipped() else "shipped"
    report: dict[str, Any] = {"n": len(pages), "method": method, **both[method], **both, **judged}
    report["rows"] = [
        {"page": page, "score": float(score), "value": float(value), "refitted": float(other)}
        for page, score, value, other in zip(pages, people, values, refitted, strict=True)
    ]
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, report)
    _draw(refitted if method == "refitted" else values, people, output.with_suffix(".png"))
    if config.coefficients:
        _write_coefficients(Path(config.coefficients), coefficients, both["refitted"], len(pages))
    return report


def scores_by_people(folder: Path) -> dict[str, float]:
    """Score of each image by its name, from `comparisons.csv` or `ratings.csv`.

    Raises:
        InputError: neither file is there, or a row lacks a column or a number.
    """
    for name, read in (("comparisons.csv", _from_comparisons), ("ratings.csv", _from_ratings)):
        if (folder / name).is_file():
            with (folder / name).open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
            try:
                found = read(rows)
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"folder: {folder / name}: {error} is missing or no number; see docs/rewards.md"
                ) from None
            if len(found) < 20:
                raise InputError(f"folder: {folder / name} names {len(found)} images; give at least 20")
            return found
    raise InputError(f"folder: {folder} has neither comparisons.csv nor ratings.csv")


def _from_comparisons(rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Bradley-Terry strengths, in logits, from how often each of two images was preferred; Gaussian prior of sd 2."""
    import choix

    names = sorted({row[side] for row in rows for side in ("im1", "im2")})
    place = {name: i for i, name in enumerate(names)}
    games = [
        (place[row[winner]], place[row[loser]])
        for row in rows
        for winner, loser, column in (("im1", "im2", "w1"), ("im2", "im1", "w2"))
        for _ in range(int(row[column]))
    ]
    strengths = choix.opt_pairwise(len(names), games, alpha=1 / 4)
    return {name: float(strength) for name, strength in zip(names, strengths, strict=True)}


def _from_ratings(rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    return {row["image"].removesuffix(Path(row["image"]).suffix): float(row["score"]) for row in rows}


def _measure(folder: Path, pages: Sequence[str]) -> tuple[list[dict[str, float]], Floats]:
    """Of each image the measures of `LIKED`, and the value that the reward gives it."""
    measured: list[dict[str, float]] = []
    values = []
    with Progress(len(pages), LoggerConfig()) as progress:
        for number, page in enumerate(pages, start=1):
            score = aesthetics_from_image(_png(folder, page))
            if score.unscored:
                raise InputError(f"folder: {folder / page}: {score.error}")
            measured.append({name: score.metrics.get(f"raw/{name}", math.nan) for name in LIKED})
            values.append(score.value or 0.0)
            progress.step(number, {})
    return measured, np.array(values)


def _png(folder: Path, page: str) -> bytes:
    from PIL import Image

    path = next((path for path in (folder / f"{page}{ending}" for ending in ENDINGS) if path.is_file()), None)
    if path is None:
        raise InputError(f"folder: there is no image {folder / page} with an ending of {', '.join(ENDINGS)}")
    file = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(file, "PNG")
    return file.getvalue()


def _write_coefficients(path: Path, coefficients: Coefficients, agreed: Mapping[str, float], pages: int) -> None:
    found = {name: asdict(one) for name, one in coefficients.items()}
    write_json(path, {"pages": pages, "cross_validated": agreed, "coefficients": found})


def _draw(values: Floats, people: Floats, path: Path) -> None:
    """A point a page: what people say against what the reward says."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(people, values, s=16, color=COLOURS[0], alpha=0.8)
    axes.set_xlabel("score by people")
    style(axes, "score by people", whole=False)
    axes.set_ylabel("aesthetics")
    axes.set_title(f"{len(people)} pages, rank correlation {agreement(values, people)['spearman']:+.2f}", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
