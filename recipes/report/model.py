"""The report's charts of what a plain dense model does not have: experts, and products in FP8."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from evolpo.recipes.drawing.charts import COLOURS, Chart, Drawn, Line, Record, all_keys, as_svg, draw, finite, number

EXPERTS = (
    Chart(
        "Load of the experts",
        "Largest excess over the mean load; 0 is even.",
        (Line("experts/worst_violation", "worst violation"),),
    ),
    Chart(
        "Biases and idle experts",
        "Spread of the biases that even out the load; experts that no token chose.",
        (Line("experts/bias_spread", "bias spread"), Line("experts/dead_experts", "idle experts")),
    ),
    Chart(
        "Routing",
        "Rollout against trainer: tokens with the same experts, and experts in common.",
        (Line("routing/same_tokens", "tokens"), Line("routing/same_experts", "experts")),
        percent=True,
    ),
)
SAFEGUARD = re.compile(r"fp8/(\w+)/layer_(\d+)/(underflow/max|similarity/min)")


def model_charts(records: Sequence[Record]) -> list[Drawn | None]:
    """Charts of experts and of FP8; None for those without data."""
    return [
        *(draw(records, chart) for chart in EXPERTS),
        _by_layer(records, "underflow/max", "FP8 underflow", "Share of elements that become zero, last step watched."),
        _by_layer(
            records,
            "similarity/min",
            "FP8 similarity",
            "Cosine between a tensor and its FP8 version, last step watched.",
        ),
    ]


def _by_layer(records: Sequence[Record], measure: str, title: str, note: str) -> Drawn | None:
    """The last values of a safeguard metric over the layers, one curve a kind of tensor."""
    last: dict[str, dict[int, float]] = {}
    matches = [m for key in sorted(all_keys(records)) if (m := SAFEGUARD.fullmatch(key)) and m[3] == measure]
    for match in matches:
        known = [record[match[0]] for record in records if finite(record.get(match[0]))]
        if known:
            last.setdefault(match[1], {})[int(match[2])] = known[-1]
    if not last:
        return None
    figure = Figure(figsize=(4.6, 2.5), layout="constrained")
    axes = figure.add_subplot()
    worst = max if measure.endswith("max") else min
    legend = []
    for (tensor, values), colour in zip(sorted(last.items()), COLOURS, strict=False):
        layers = sorted(values)
        axes.plot(layers, np.array([values[layer] for layer in layers]), "o-", color=colour, markersize=3)
        legend.append((tensor, colour, number(worst(values.values()))))
    return Drawn(title, note, as_svg(figure, "layer"), legend)
