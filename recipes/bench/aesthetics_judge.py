"""How far a multimodal judge agrees with people: its checklist page by page, and its choice between two pages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolpo import InputError
from evolpo.recipes.bench.aesthetics_fit import Floats, agreement, cross_validated_shares, fit_shares
from evolpo.rewards.frontend.checklist import items_of
from evolpo.rewards.frontend.visual_judge import Comparison, compare, judged_aesthetics
from evolpo.rewards.judges.judge import Judge, JudgeError
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress

TASK = "A web page."
"""What a judge is told of pages of which nobody knows what they were to be."""
AT_ONCE = 32
"""Questions under way; a judge limits what it takes at once itself."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question about two pages, and what came of it."""

    first: int
    second: int
    said: Comparison | None
    """None without a verdict in both orders."""


def judge_report(
    images: Mapping[str, bytes], people: Floats, judge: Judge, pairs: int, seed: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """Ask about every page and about some pairs.

    Args:
        images: name -> PNG of the pages.
        people: [N] their scores by people, in the same order.
        judge: a multimodal judge.
        pairs: how many pairs of pages to ask about, in both orders.
        seed: of the pairs drawn.

    Returns:
        The figures: `pages` with a verdict and `unjudged` ones; `shipped` and `refitted`, see `agreement` (all items
        alike, and weights fitted to other pages); `pairs`: `judged` and `unjudged` ones, `right` (in the order of the
        scores, a draw is half right), `consistent` (the same in both orders), `right_if_consistent`; `rows`: the value
        of each page. And the weights of the items, fitted to all pages.

    Raises:
        InputError: the judge does not answer for the first page, or for more than half of the pages.
    """
    return asyncio.run(_report(list(images.values()), people, judge, pairs, seed))


async def _report(
    images: Sequence[bytes], people: Floats, judge: Judge, pairs: int, seed: int
) -> tuple[dict[str, Any], dict[str, float]]:
    items = items_of(1)
    drawn = _draw_pairs(people, pairs, seed)
    values, ticks = np.full(len(images), np.nan), np.zeros((len(images), len(items)))  # [N], [N, M]
    with Progress(len(images) + len(drawn), LoggerConfig()) as progress:
        for start in _starts(len(images)):
            batch = range(start, min(start + (AT_ONCE if start else 1), len(images)))
            scores = await asyncio.gather(*(judged_aesthetics([images[i]], TASK, judge) for i in batch))
            for i, score in zip(batch, scores, strict=True):
                if score.value is None and i == 0:
                    raise InputError(f"judge: it does not answer: {score.error}")
                if score.value is not None and "checklist" in score.metrics:
                    values[i] = score.value
                    ticks[i] = [score.metrics[f"item/{name}"] for name in items]
            progress.step(batch.stop, {})
        asked: list[Pair] = []
        for at in range(0, len(drawn), AT_ONCE):
            asked += await asyncio.gather(*(_ask(images, pair, judge) for pair in drawn[at : at + AT_ONCE]))
            progress.step(len(images) + len(asked), {})
    judged = np.isfinite(values)
    if 2 * judged.sum() <= len(images):
        raise InputError(f"judge: it gave a verdict on {judged.sum()} of {len(images)} pages only")
    refitted = cross_validated_shares(ticks[judged], people[judged], seed)
    shares = fit_shares(ticks[judged], people[judged])
    report = {
        "pages": int(judged.sum()),
        "unjudged": int((~judged).sum()),
        "shipped": agreement(values[judged], people[judged]),
        "refitted": agreement(refitted, people[judged]),
        "pairs": pair_figures(asked, people),
        "rows": [None if np.isnan(value) else float(value) for value in values],
    }
    return report, {name: round(float(share), 4) for name, share in zip(items, shares, strict=True)}


def _starts(count: int) -> list[int]:
    """Where batches begin: the first page alone, so that a judge who is away is asked once."""
    return [0, *range(1, count, AT_ONCE)]


async def _ask(images: Sequence[bytes], pair: tuple[int, int], judge: Judge) -> Pair:
    first, second = pair
    try:
        return Pair(first, second, await compare([images[first]], [images[second]], TASK, judge))
    except JudgeError:
        return Pair(first, second, None)


def _draw_pairs(people: Floats, count: int, seed: int) -> list[tuple[int, int]]:
    """Some pairs of pages that people do not score alike, each once."""
    first, second = np.triu_indices(len(people), 1)
    apart = np.flatnonzero(people[first] != people[second])
    drawn = np.random.default_rng(seed).permutation(apart)[:count]
    return [(int(first[i]), int(second[i])) for i in drawn]


def pair_figures(asked: Sequence[Pair], people: Floats) -> dict[str, float]:
    """What `judge_report` says of pairs; shares are left out where there is nothing to take them of."""
    points = [
        (pair.said.value if people[pair.first] > people[pair.second] else 1 - pair.said.value, pair.said.consistent)
        for pair in asked
        if pair.said is not None
    ]
    agreed = [point for point, consistent in points if consistent]
    found = {"judged": float(len(points)), "unjudged": float(len(asked) - len(points))}
    if points:
        found |= {"right": sum(point for point, _ in points) / len(points), "consistent": len(agreed) / len(points)}
    if agreed:
        found["right_if_consistent"] = sum(agreed) / len(agreed)
    return found
