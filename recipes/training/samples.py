"""The sample table of a run: a few responses a step with their sentences, importance ratios and rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evolpo.rewards.answers.accepted import answer_texts
from evolpo.rl.data import Batch, Group
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.samples import SampleRow
from evolpo.rl.segment import unit_texts
from evolpo.rl.trainer import UpdateResult


def sample_rows(
    step: int,
    groups: Sequence[Group],
    units: Sequence[Sequence[Sequence[int]]],
    advantages: Sequence[Sequence[float | None]],
    batch: Batch,
    result: UpdateResult,
    tokenizer: Any,
    config: LoggerConfig,
) -> list[SampleRow]:
    """The first responses of evenly spaced groups, `config.samples_per_step` of them."""
    index_of = {(row.group, row.response_ids): index for index, row in enumerate(batch.rows)}
    chosen: list[int] = []
    if groups:
        chosen = np.linspace(0, len(groups) - 1, min(config.samples_per_step, len(groups)), dtype=int).tolist()
    rows = []
    for g in sorted(set(chosen)):
        group = groups[g]
        r = step % len(group.responses)
        response, ids = group.responses[r], units[g][r]
        index = index_of.get((g, response.token_ids), -1)
        ratios = unit_ratios(ids, result.log_ratios.get(index))
        texts = unit_texts(response.token_ids, ids, tokenizer)
        counts = [list(ids).count(unit) for unit in range(len(texts))]
        old = result.old_logprobs.get(index)
        gap = float(np.mean(np.abs(np.subtract(old, response.logprobs)))) if old else 0.0
        rows.append(
            SampleRow(
                step=step,
                prompt_id=group.prompt.id,
                difficulty=group.prompt.difficulty,
                prompt=group.prompt.text,
                answer=" | ".join(answer_texts(group.prompt.answer)),
                response=response.text,
                reward=group.rewards[r],
                advantage=advantages[g][r] or 0.0,
                breakdown=dict(group.breakdown[r]),
                sentences=list(zip(texts, counts, ratios, strict=True)),
                tokens=len(response.token_ids),
                finish_reason=response.finish_reason,
                logprob_gap=gap,
            )
        )
    return rows


def unit_ratios(units: Sequence[int], log_ratios: Sequence[float] | None) -> list[float | None]:
    """exp(mean log-ratio) of each unit; None for all if the response was not trained on."""
    count = units[-1] + 1 if units else 0
    if log_ratios is None:
        return [None] * count
    sums, sizes = np.zeros(count), np.zeros(count)
    np.add.at(sums, list(units), log_ratios)
    np.add.at(sizes, list(units), 1)
    return [float(ratio) for ratio in np.exp(sums / sizes)]
