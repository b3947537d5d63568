"""The charts of a run with a fleet: how old responses are, what that changes, and who waits for whom."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from evolpo.recipes.drawing.charts import Chart, Drawn, Line, Record, all_keys, draw


def fleet_charts(records: Sequence[Record]) -> list[Drawn | None]:
    """Charts of staleness, gaps by age, the correction, engines at work and deaths; none without a fleet."""
    keys = all_keys(records)
    if "staleness/token_mean" not in keys:
        return []
    charts = (
        Chart(
            "Staleness",
            "Finished steps between the policy that sampled and the one that trains.",
            (
                Line("staleness/token_mean", "a token, mean"),
                Line("staleness/response_mean", "a response, mean"),
                Line("staleness/response_max", "a response, largest"),
            ),
        ),
        Chart(
            "Log-probability gap by age",
            "Trainer against engines, in nats, by the age of a token's policy in steps.",
            tuple(Line(key, f"age {age}") for age, key in ages(keys)),
            log=True,
        ),
        Chart(
            "Correction",
            "Mean weight of a token, and the share of tokens whose weight was cut or dropped.",
            (Line("correction/mean", "mean weight"), Line("correction/changed", "changed")),
        ),
        Chart("Engines at work", "Share of the time between two steps.", (Line("fleet/busy", "busy"),), percent=True),
        Chart(
            "Engines",
            "There now, and given up so far.",
            (Line("fleet/live", "live"), Line("fleet/deaths", "given up")),
            noisy=False,
        ),
    )
    return [draw(records, chart) for chart in charts]


def ages(keys: Collection[str]) -> list[tuple[int, str]]:
    """Ages of tokens that were measured, with the keys of their gaps, rising."""
    found = ((re.fullmatch(r"logprob_gap/age_(\d+)", key), key) for key in keys)
    return sorted((int(match[1]), key) for match, key in found if match)
