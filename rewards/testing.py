"""Fixtures for people who write reward plugins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from evolpo.rewards.base import Reward, Sample, Score


def make_sample(**overrides: Any) -> Sample:
    r"""A plausible sample (the response is right and says `\boxed{4}`), with any of its fields replaced."""
    fields: dict[str, Any] = {
        "prompt": "What is 2 + 2?",
        "text": r"Two and two make four. The answer is \boxed{4}.",
        "answer": "4",
        "difficulty": "easy",
        "metadata": {},
        "token_count": 16,
        "truncated": False,
    }
    return Sample(**{**fields, **overrides})


def check_reward(reward: Reward, samples: Sequence[Sample], deterministic: bool = True) -> list[Score]:
    """Check a plugin against the protocol and return its scores of the samples.

    For a group reward the samples are one group. A reward that asks a sampled judge is not deterministic: say so.

    Raises:
        AssertionError: not a `Reward`; wrong number or type of scores; a sample it failed on, with the error; an empty
            list it does not answer with an empty list; another value the second time.
    """
    assert isinstance(reward, Reward), f"{reward!r} is no Reward: it needs name, scope and async score()"
    assert reward.scope in ("sample", "group"), f"{reward.name}: scope is {reward.scope!r}, not sample or group"
    scores, again, empty = asyncio.run(_score_thrice(reward, samples))
    assert empty == [], f"{reward.name}: no samples give {empty!r}, not []"
    assert len(scores) == len(samples), f"{reward.name}: {len(samples)} samples give {len(scores)} scores"
    for sample, score in zip(samples, scores, strict=True):
        assert isinstance(score, Score), f"{reward.name}: {score!r} is no Score"
        assert not score.unscored, f"{reward.name}: {score.status} on {sample.text[:80]!r}: {score.error}"
    if deterministic:
        values, other = [score.value for score in scores], [score.value for score in again]
        assert values == other, f"{reward.name}: the same samples give {values}, then {other}"
    return scores


async def _score_thrice(reward: Reward, samples: Sequence[Sample]) -> tuple[list[Score], list[Score], list[Score]]:
    return await reward.score(samples), await reward.score(samples), await reward.score([])
