"""`evolpo bench frontend`: the front-end reward on honest pages, on copies made worse, and on pages that cheat."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.recipes.bench.frontend_odd import odd_pages
from evolpo.recipes.bench.frontend_pages import ATTACKS, DEGRADATIONS, honest_pages
from evolpo.recipes.runs.checks import check_positive
from evolpo.rewards import Sample, Score
from evolpo.rewards.frontend.aesthetics import reference_percentiles
from evolpo.rewards.frontend.browser import MAX_PAGES
from evolpo.rewards.frontend.reward import Frontend
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress

ATTEMPTS = 3
"""How often a page is scored in all if the browser, not the page, failed: a busy machine is not what is measured."""


@dataclass
class BenchFrontendConfig:
    """`evolpo bench frontend`: does a page beat its worse copies, and does cheating pay?"""

    pages: int = 0
    """Honest pages to use, the first by name; 0 uses all."""
    deadline_s: float = 120.0
    """Seconds for exercising one page, without its wait for the browser."""
    percentiles: str = ""
    """File to write the reference percentiles of the honest pages to; empty writes none."""
    output: str = "outputs/bench/frontend.json"
    """File of the results."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.pages < 0:
            raise InputError(f"pages: {self.pages} is negative; give 0 for all")
        check_positive(self, "deadline_s")


def main(config: BenchFrontendConfig) -> None:
    """Run `evolpo bench frontend` from the command line: the figures in a few lines."""
    report = bench_frontend(config)
    print(f"pairs won: {report['pairs_won']} of {report['pairs']}")
    print(f"honest pages rejected: {report['rejected_honest']} of {report['honest']}")
    print(f"seconds a page: median {report['seconds_p50']:.1f}, 95th percentile {report['seconds_p95']:.1f}")
    for name, attack in report["attacks"].items():
        print(f"{name}: {attack['score']}, worst honest page {attack['worst_honest']}")
    print(config.output)


def bench_frontend(config: BenchFrontendConfig) -> dict[str, Any]:
    """Render and score all pages with the whole stack, write and return the figures.

    A page that hangs at its own fault scores 0. Pages that the bench itself could not score are listed, and pairs they
    belong to count as lost.

    Returns:
        `pairs`, `pairs_won`; `attacks`: name -> `score`, `worst_honest`; `share_won`: degradation -> share of its
        pairs; `rows`: each pair with both scores and what each stage found; `honest_scores`: name -> score;
        `honest`: number of honest pages, those of odd kinds included, and `rejected_honest`: of these that got 0;
        `seconds_p50`, `seconds_p95`: of the clock, a page, two at once; `failed` and `unscored`: name -> reason;
        `setting`.
    """
    honest = honest_pages()
    honest = dict(list(honest.items())[: config.pages or None])
    pages = {("honest", name): html for name, html in honest.items()}
    pages |= {(kind, name): worse(html) for kind, worse in DEGRADATIONS.items() for name, html in honest.items()}
    pages |= {("attack", name): html for name, html in ATTACKS.items()}
    pages |= {("odd", name): html for name, html in list(odd_pages().items())[: config.pages or None]}
    scores = asyncio.run(_score_all(pages, config))
    report = figures(scores) | {"setting": {key: value for key, value in asdict(config).items() if key != "output"}}
    if config.percentiles:
        shots = [score.artifacts["screenshots"][1] for (kind, _), score in scores.items() if kind == "honest"]
        Path(config.percentiles).write_text(json.dumps(reference_percentiles(shots), indent=1) + "\n")
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    return report


async def _score_all(pages: Mapping[tuple[str, str], str], config: BenchFrontendConfig) -> dict[tuple[str, str], Score]:
    reward = Frontend(deadline_s=config.deadline_s)
    slots = asyncio.Semaphore(MAX_PAGES)
    scores: dict[tuple[str, str], Score] = {}
    with Progress(len(pages), LoggerConfig()) as progress:

        async def score(key: tuple[str, str], html: str) -> None:
            async with slots:
                for _ in range(ATTEMPTS):
                    [scores[key]] = await reward.score([_sample(html)])
                    if not scores[key].unscored:
                        break
            progress.step(len(scores), {})

        await asyncio.gather(*(score(key, html) for key, html in pages.items()))
    return {key: scores[key] for key in pages}


def _sample(html: str) -> Sample:
    return Sample(
        prompt="Write a web page.",
        text=f"```html\n{html}\n```",
        answer=None,
        difficulty="",
        metadata={},
        token_count=len(html) // 4,
        truncated=False,
    )


def figures(scores: Mapping[tuple[str, str], Score]) -> dict[str, Any]:
    """The report from (kind, name) -> score; kinds are `honest`, `odd`, `attack` and the degradations."""
    honest = {name: score for (kind, name), score in scores.items() if kind == "honest"}
    worst = min((score.value for score in honest.values() if score.value is not None), default=None)
    rows = []
    for (kind, name), worse in scores.items():
        if kind in DEGRADATIONS:
            original = honest[name]
            won = original.value is not None and worse.value is not None and original.value > worse.value
            row = {"page": name, "degradation": kind, "original": original.value, "degraded": worse.value, "won": won}
            rows.append(row | {"stages": {"original": _stages(original), "degraded": _stages(worse)}})
    every_honest = [score for (kind, _), score in scores.items() if kind in ("honest", "odd")]
    seconds = sorted(score.elapsed_s for score in scores.values())
    kinds = dict.fromkeys(row["degradation"] for row in rows)
    return {
        "pairs": len(rows),
        "pairs_won": sum(bool(row["won"]) for row in rows),
        "attacks": {
            name: {"score": score.value, "worst_honest": worst}
            for (kind, name), score in scores.items()
            if kind == "attack"
        },
        "share_won": {
            kind: sum(bool(row["won"]) for row in rows if row["degradation"] == kind)
            / sum(row["degradation"] == kind for row in rows)
            for kind in kinds
        },
        "rows": rows,
        "honest": len(every_honest),
        "rejected_honest": sum(score.value == 0 for score in every_honest),
        "honest_scores": {name: score.value for (kind, name), score in scores.items() if kind in ("honest", "odd")},
        "seconds_p50": seconds[len(seconds) // 2] if seconds else 0.0,
        "seconds_p95": seconds[len(seconds) * 95 // 100] if seconds else 0.0,
        "failed": {f"{kind}/{name}": score.error for (kind, name), score in scores.items() if score.error},
        "unscored": {f"{kind}/{name}": score.error for (kind, name), score in scores.items() if score.unscored},
    }


def _stages(score: Score) -> dict[str, float]:
    return {stage: score.metrics[stage] for stage in ("syntax", "function", "aesthetics") if stage in score.metrics}
