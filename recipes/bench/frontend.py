"""`evolpo bench frontend`: the front-end reward on honest pages, on worse copies, on cheats, and what was asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from evolpo import InputError
from evolpo.recipes.bench.frontend_asked import CONSTANT, asked_pages, cheats
from evolpo.recipes.bench.frontend_odd import odd_pages
from evolpo.recipes.bench.frontend_pages import ATTACKS, DEGRADATIONS, honest_pages, page_prompts
from evolpo.recipes.runs.checks import check_positive
from evolpo.rewards import Sample, Score
from evolpo.rewards.frontend.aesthetics import reference_percentiles
from evolpo.rewards.frontend.browser import MAX_PAGES
from evolpo.rewards.frontend.reward import Frontend
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress

ATTEMPTS = 3
"""How often a page is scored in all if the browser, not the page, failed: a busy machine is not what is measured."""
PARTS = ("honest", "degraded", "attacks", "odd", "asked")
"""What is scored: honest pages, four worse copies of each, cheats, odd pages, and the prompts with checks."""
PLAIN = "Write a page about gardens, tools and weather, with useful words and a button to go on."
"""The prompt of the cheats that are made for no prompt of the data set; one of them hides these words."""


class Task(NamedTuple):
    """What is scored: a prompt, the page given to it, and its checks."""

    prompt: str
    html: str
    checks: tuple[Mapping[str, Any], ...] = ()


@dataclass
class BenchFrontendConfig:
    """`evolpo bench frontend`: does a page beat its worse copies, and does cheating pay?"""

    pages: int = 0
    """Honest pages to use, the first by name; 0 uses all."""
    parts: list[str] = field(default_factory=lambda: list(PARTS))
    """Some of honest, degraded, attacks, odd and asked; degraded and attacks are held against honest and asked."""
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
        if unknown := set(self.parts) - set(PARTS):
            raise InputError(f"parts: {min(unknown)} is unknown; give some of {', '.join(PARTS)}")
        if "degraded" in self.parts and "honest" not in self.parts:
            raise InputError("parts: degraded copies are held against the honest pages; add honest")
        check_positive(self, "deadline_s")


def main(config: BenchFrontendConfig) -> None:
    """Run `evolpo bench frontend` from the command line: the figures in a few lines."""
    report = bench_frontend(config)
    print(f"pairs won: {report['pairs_won']} of {report['pairs']}")
    print(f"honest pages rejected: {report['rejected_honest']} of {report['honest']}")
    print(f"seconds a page: median {report['seconds_p50']:.1f}, 95th percentile {report['seconds_p95']:.1f}")
    for name, attack in report["attacks"].items():
        print(f"{name}: {attack['score']}, worst honest page {attack['worst_honest']}")
    for name, row in report["asked"].items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in row.items()))
    print(config.output)


def bench_frontend(config: BenchFrontendConfig) -> dict[str, Any]:
    """Render and score all pages with the whole stack, write and return the figures.

    A page that hangs at its own fault scores 0. Pages that the bench itself could not score are listed, and pairs they
    belong to count as lost.

    Returns:
        `pairs`, `pairs_won`; `attacks`: name -> `score`, `worst_honest`; `share_won`: degradation -> share of its
        pairs; `rows`: each pair with both scores and what each stage found; `honest_scores`: name -> score; `asked`:
        name of a prompt -> scores of its own page and of the constant page, with its checks and `unverified`;
        `honest`: number of honest pages, those of odd kinds included, and `rejected_honest`: of these that got 0;
        `seconds_p50`, `seconds_p95`: of the clock, a page, two at once; `failed` and `unscored`: name -> reason;
        `setting`.
    """
    scores = asyncio.run(_score_all(tasks(config), config))
    report = figures(scores) | {"setting": {key: value for key, value in asdict(config).items() if key != "output"}}
    if config.percentiles:
        shots = [score.artifacts["screenshots"][1] for (kind, _), score in scores.items() if kind == "honest"]
        Path(config.percentiles).write_text(json.dumps(reference_percentiles(shots), indent=1) + "\n")
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    return report


def tasks(config: BenchFrontendConfig) -> dict[tuple[str, str], Task]:
    """What the chosen parts score: (kind, name) -> task."""
    first, prompts, pages = config.pages or None, page_prompts(), honest_pages()
    honest = {name: Task(prompts[name], html) for name, html in list(pages.items())[:first]}
    found: dict[tuple[str, str], Task] = {}
    if "honest" in config.parts:
        found |= {("honest", name): task for name, task in honest.items()}
    if "degraded" in config.parts:
        for kind, worse in DEGRADATIONS.items():
            found |= {(kind, name): Task(task.prompt, worse(task.html)) for name, task in honest.items()}
    if "attacks" in config.parts:
        found |= {("attack", name): Task(PLAIN, html) for name, html in ATTACKS.items()}
        for name, cheat in list(cheats().items())[:first]:
            found["attack", name] = Task(cheat.prompt, cheat.html, cheat.checks)
    if "odd" in config.parts:
        found |= {("odd", name): Task(prompts[name], html) for name, html in list(odd_pages().items())[:first]}
    if "asked" in config.parts:
        for name, asked in list(asked_pages().items())[:first]:
            for page, html in (("own", asked.html), ("constant", pages[CONSTANT])):
                found["asked", f"{name}/{page}"] = Task(asked.prompt, html, asked.checks)
                found["asked", f"{name}/{page}_unverified"] = Task(asked.prompt, html)
    return found


async def _score_all(
    pages: Mapping[tuple[str, str], Task], config: BenchFrontendConfig
) -> dict[tuple[str, str], Score]:
    reward = Frontend(deadline_s=config.deadline_s)
    slots = asyncio.Semaphore(MAX_PAGES)
    scores: dict[tuple[str, str], Score] = {}
    with Progress(len(pages), LoggerConfig()) as progress:

        async def score(key: tuple[str, str], task: Task) -> None:
            async with slots:
                for _ in range(ATTEMPTS):
                    [scores[key]] = await reward.score([_sample(task)])
                    if not scores[key].unscored:
                        break
            progress.step(len(scores), {})

        await asyncio.gather(*(score(key, task) for key, task in pages.items()))
    return {key: scores[key] for key in pages}


def _sample(task: Task) -> Sample:
    return Sample(
        prompt=task.prompt,
        text=f"```html\n{task.html}\n```",
        answer=None,
        difficulty="",
        metadata={"checks": list(task.checks)},
        token_count=len(task.html) // 4,
        truncated=False,
    )


def figures(scores: Mapping[tuple[str, str], Score]) -> dict[str, Any]:
    """The report from (kind, name) -> score; kinds are `honest`, `odd`, `attack`, `asked` and the degradations.

    The worst honest page is the worst of those without checks and of no odd kind.
    """
    honest = {name: score for (kind, name), score in scores.items() if kind == "honest"}
    asked = {name: score for (kind, name), score in scores.items() if kind == "asked"}
    modest = [score for name, score in asked.items() if name.endswith("/own_unverified")]
    worst = min((score.value for score in [*honest.values(), *modest] if score.value is not None), default=None)
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
        "asked": _asked_table(asked),
        "honest": len(every_honest),
        "rejected_honest": sum(score.value == 0 for score in every_honest),
        "honest_scores": {name: score.value for (kind, name), score in scores.items() if kind in ("honest", "odd")},
        "seconds_p50": seconds[len(seconds) // 2] if seconds else 0.0,
        "seconds_p95": seconds[len(seconds) * 95 // 100] if seconds else 0.0,
        "failed": {f"{kind}/{name}": score.error for (kind, name), score in scores.items() if score.error},
        "unscored": {f"{kind}/{name}": score.error for (kind, name), score in scores.items() if score.unscored},
    }


def _asked_table(asked: Mapping[str, Score]) -> dict[str, dict[str, float | None]]:
    table: dict[str, dict[str, float | None]] = {}
    for name, score in asked.items():
        prompt, _, page = name.partition("/")
        table.setdefault(prompt, {})[page] = score.value
    return table


def _stages(score: Score) -> dict[str, float]:
    return {stage: score.metrics[stage] for stage in ("syntax", "function", "aesthetics") if stage in score.metrics}
