"""The report's part on a curriculum: what each stage was, when it began, and what it did to each level."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evolpo.recipes.drawing.charts import Chart, Drawn, Line, Record, all_keys, draw, finite, number
from evolpo.recipes.runs.levels import in_order

STAGE = "curriculum/stage"
PASSED = Chart("Pass rate", "Right responses to what is sampled.", (Line("accuracy", "passed"),), percent=True)
LENGTH = Chart("Length reward", "Mean over the responses of a step.", (Line("reward/length/mean", "length"),))
BY_LEVEL = (
    ("Held-out accuracy", "Of held-out problems, by difficulty.", "eval/{}/accuracy"),
    ("Held-out length", "Mean tokens a response to held-out problems, by difficulty.", "eval/{}/tokens_mean"),
    ("Training accuracy", "Of the responses trained on, by difficulty.", "accuracy/{}"),
    ("Training length", "Mean tokens of the responses trained on, by difficulty.", "response/{}/tokens_mean"),
)


def curriculum_charts(records: Sequence[Record], settings: Record) -> list[Drawn | None]:
    """Charts over the steps with the begin of each stage, named in the first; none for a run without a curriculum."""
    begins = _begins(records)
    if not begins:
        return []
    marks = [(step - 0.5, _name(settings, number)) for number, step in begins.items()]
    lines_only = [(step, "") for step, _ in marks]
    charts = []
    keys = all_keys(records)
    for title, note, pattern in BY_LEVEL:
        form = re.compile(re.escape(pattern).replace(r"\{\}", "(.+)"))
        found = {match[1] for key in keys if (match := form.fullmatch(key))}
        lines = tuple(Line(pattern.format(level), level) for level in in_order(found, settings))
        charts.append(Chart(title, note, lines, percent="accuracy" in pattern))
    return [draw(records, PASSED, marks), *(draw(records, chart, lines_only) for chart in [*charts, LENGTH])]


def curriculum_table(records: Sequence[Record], settings: Record) -> list[dict[str, str]]:
    """The stages' settings in words, with the steps they lasted; empty for a run without a curriculum."""
    begins = _begins(records)
    if not begins:
        return []
    last = max(record["step"] for record in records)
    ends = {number: begins.get(number + 1, last + 1) - 1 for number in begins}
    most = (settings.get("rollout") or {}).get("max_response_tokens")
    return [
        {
            "name": _name(settings, number),
            "steps": f"{begins[number]} to {ends[number]}" if number in begins else "not reached",
            "budget": f"{stage.get('max_response_tokens') or most or '–'} tokens",
            "ends": _end(stage),
            "mix": _shares(stage.get("mix") or {}, settings) or "weights of the data",
            "alpha": _by_level(stage.get("alpha") or {}, settings) or "the reward's own",
        }
        for number, stage in enumerate(_stages(settings), start=1)
    ]


def _begins(records: Sequence[Record]) -> dict[int, int]:
    """First step of each stage, by its number from 1."""
    begins: dict[int, int] = {}
    for record in records:
        if finite(record.get(STAGE)):
            begins.setdefault(int(record[STAGE]), record["step"])
    return begins


def _stages(settings: Record) -> Sequence[Mapping[str, Any]]:
    return (settings.get("curriculum") or {}).get("stages") or []


def _name(settings: Record, number: int) -> str:
    """What the configuration calls a stage, which counts from 1."""
    stages = _stages(settings)
    return (stages[number - 1].get("name") if number <= len(stages) else "") or f"stage {number}"


def _end(stage: Mapping[str, Any]) -> str:
    """When a stage is over."""
    ends = []
    if stage.get("pass_rate"):
        ends.append(f"at {stage['pass_rate']:.0%} over {stage['window']} steps")
    if stage.get("steps"):
        ends.append(f"after {stage['steps']} steps")
    return " or ".join(ends) or "with the run"


def _shares(mix: Mapping[str, float], settings: Record) -> str:
    """Shares of a mix, which need not sum to 1, in percent."""
    total = sum(mix.values())
    return ", ".join(f"{level} {mix[level] / total:.0%}" for level in in_order(mix, settings))


def _by_level(values: Mapping[str, float], settings: Record) -> str:
    return ", ".join(f"{level} {number(values[level])}" for level in in_order(values, settings))
