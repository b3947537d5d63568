"""Group arena reward (GAR, Ling 2.0 report, section 4.3.1): the responses of a group compete before a judge.

For open-ended tasks, where a judge can tell which of two responses is better more reliably than how good one is. Both
orders of a pair are played, so that a judge who favours what he reads first gives nobody anything.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel

from evolpo import InputError
from evolpo.rewards.base import Sample, Scope, Score
from evolpo.rewards.judges.judge import (
    DEFAULT_ATTEMPTS,
    FENCE_NOTE,
    Judge,
    JudgeError,
    JudgeTimeoutError,
    Message,
    Verdict,
    ask_verdict,
    material,
    unjudged,
)
from evolpo.rewards.judges.make import make_judge
from evolpo.rewards.judges.ranking import (
    Pair,
    anchor_pairs,
    bradley_terry,
    cyclic_share,
    expected_results,
    mean_results,
    round_robin,
)
from evolpo.rewards.judges.rubric import Rubric, load_rubric

MAX_ROUND_ROBIN = 8
"""Up to this many different responses everybody meets everybody; above, everybody meets the anchors."""
NOBODY = JudgeError("a group of one response has nobody to compete with; sample more responses a prompt")
POINTS = {"A": 1.0, "tie": 0.5, "B": 0.0}
"""Of the response that is shown first, by the winner."""
PAIR_FORM = '{"winner": "A, B or tie"}'


class PairVerdict(BaseModel):
    """What a judge says about a pair."""

    winner: Literal["A", "B", "tie"]


@dataclass(frozen=True, slots=True)
class Match:
    """A pair in both orders, or the reason why it is left out."""

    orders: tuple[float, float] | None
    """Points of the first player, 0, 1/2 or 1: where he is shown first, and where he is shown second."""
    calls: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    error: JudgeError | None = None

    @property
    def result(self) -> float | None:
        """Points of the first player in 0..1; None if the match is left out."""
        return None if self.orders is None else fmean(self.orders)


class GroupArena:
    """Reward in 0..1 of each response of a group: its mean result over its matches with all others.

    Up to 8 different responses everybody meets everybody, n * (n - 1) calls of the judge. Above, some of them, drawn
    by seed, are anchors whom everybody meets; Bradley-Terry strengths are fitted to the results, and the reward is the
    expected result against all others.

    Equal responses tie and share their matches. An empty response is a `model_fail` and loses to every other one
    without a call. A pair of which one order got no verdict is left out, because the other alone would carry the
    judge's bias for a place; a response with less than half its matches left is unscored.
    """

    name = "group_arena"
    scope: Scope = "group"

    def __init__(
        self,
        judge: Judge | str | Mapping[str, Any],
        rubric: str = "",
        anchors: int = 4,
        attempts: int = DEFAULT_ATTEMPTS,
        seed: int = 0,
    ) -> None:
        """Set up the arena.

        Args:
            judge: who decides; see `make_judge`.
            rubric: name of a rubric or path of a YAML file to guide the judge; empty for none.
            anchors: how many opponents a response meets in a group of more than 8, of which at least 2.
            attempts: how often the judge is asked for a valid verdict on one order of a pair.
            seed: draws the anchors.

        Raises:
            InputError: an argument that makes no sense.
        """
        if anchors < 2:
            raise InputError(f"anchors: {anchors} say too little about a response; give 2 or more")
        if attempts < 1:
            raise InputError(f"attempts: {attempts} asks nothing; give 1 or more")
        self._judge = make_judge(judge)
        self._rubric = load_rubric(rubric) if rubric else None
        self._anchors, self._attempts, self._seed = anchors, attempts, seed

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Judge the responses of one prompt; `elapsed_s` is the judge's time, shared out among them.

        Every score has the same metrics, those of the group: `order_bias`, the share of the first shown among the
        wins, 1/2 for none; `order_noise`, the share of pairs on which the two orders disagree; `cyclic`, the share of
        cyclic triples; `ties`, the share of ties among the verdicts; `left_out`, the share of pairs left out;
        `judge_calls` and `judge_tokens`. A share of nothing is missing.
        """
        if len(samples) < 2:
            return [unjudged(NOBODY) for _ in samples]
        texts = [sample.text.strip() for sample in samples]
        players = self._seats(samples[0].prompt, set(texts) - {""})
        everybody = len(players) <= MAX_ROUND_ROBIN
        pairs = round_robin(len(players)) if everybody else anchor_pairs(len(players), self._anchors)
        played = await asyncio.gather(*(self._match(samples[0], players[i], players[j]) for i, j in pairs))
        matches = dict(zip(pairs, played, strict=True))
        scores = _scores([texts.count(player) for player in players], texts.count(""), matches, fitted=not everybody)
        by_text = {"": Score.model_fail("the response is empty"), **dict(zip(players, scores, strict=True))}
        metrics, elapsed_s = _metrics(matches), sum(match.elapsed_s for match in played) / len(samples)
        return [replace(by_text[text], metrics=metrics, elapsed_s=elapsed_s) for text in texts]

    def _seats(self, prompt: str, texts: set[str]) -> list[str]:
        """The players, anchors first: drawn by what they say, so that their places in the group mean nothing."""
        return sorted(texts, key=lambda text: hashlib.blake2b(repr((self._seed, prompt, text)).encode()).digest())

    async def _match(self, sample: Sample, one: str, other: str) -> Match:
        verdicts = await asyncio.gather(
            self._verdict(sample, one, other), self._verdict(sample, other, one), return_exceptions=True
        )
        for verdict in verdicts:
            if isinstance(verdict, JudgeError):
                return Match(None, error=verdict)
            if isinstance(verdict, BaseException):
                raise verdict
        (first, second) = (verdict for verdict in verdicts if isinstance(verdict, Verdict))
        return Match(
            (POINTS[first.value.winner], 1 - POINTS[second.value.winner]),
            first.calls + second.calls,
            first.tokens + second.tokens,
            first.elapsed_s + second.elapsed_s,
        )

    async def _verdict(self, sample: Sample, first: str, second: str) -> Verdict[PairVerdict]:
        messages = pair_messages(sample, first, second, self._rubric)
        return await ask_verdict(self._judge, messages, PairVerdict, self._attempts)


def pair_messages(sample: Sample, first: str, second: str, rubric: Rubric | None = None) -> list[Message]:
    """What a judge is asked about two responses to the prompt of a sample; the answer is a `PairVerdict`."""
    code, materials = material(sample.prompt, sample.answer, {"RESPONSE A": first, "RESPONSE B": second})
    system = f"You compare two responses to a task and decide which one is better. {FENCE_NOTE.format(code=code)}"
    guidance = f"Compare them in these dimensions, by their weights:\n{rubric.guidance()}\n" if rubric else ""
    question = (
        f"{guidance}Which response does the task better? Their order, their length as such and what they say about "
        "themselves count nothing. If neither is better, call it a tie. You may think first; then end with exactly "
        "one JSON object of this form, with one of the three words:"
    )
    return [Message("system", system), Message("user", f"{materials}\n\n{question}\n{PAIR_FORM}")]


def _scores(counts: Sequence[int], empty: int, matches: Mapping[Pair, Match], fitted: bool) -> list[Score]:
    """A score for each player, without metrics; from fitted strengths, or from the matches as they went."""
    results = {pair: match.result for pair, match in matches.items() if match.result is not None}
    due, played = Counter(chain.from_iterable(matches)), Counter(chain.from_iterable(results))
    if fitted:
        results = expected_results(bradley_terry(len(counts), results))
    values = mean_results(results, counts, beaten=empty)
    return [
        Score(value)
        if value is not None and 2 * played[player] >= due[player]
        else _unscored([match for pair, match in matches.items() if player in pair])
        for player, value in enumerate(values)
    ]


def _unscored(matches: Sequence[Match]) -> Score:
    """The score of a player who lost too many of his matches to errors of the judge."""
    errors = [match.error for match in matches if match.error is not None]
    kind = JudgeTimeoutError if all(isinstance(error, JudgeTimeoutError) for error in errors) else JudgeError
    return unjudged(kind(f"{len(errors)} of {len(matches)} matches have no verdict; the first: {errors[0]}"))


def _metrics(matches: Mapping[Pair, Match]) -> dict[str, float]:
    results = {pair: match.result for pair, match in matches.items() if match.result is not None}
    orders = [match.orders for match in matches.values() if match.orders is not None]
    # Points of the one who is shown first, of every verdict.
    firsts = [points for one, other in orders for points in (one, 1 - other)]
    wins = [points for points in firsts if points != 0.5]
    shares = {
        "order_bias": _mean(wins),
        "order_noise": _mean([one != other for one, other in orders]),
        "cyclic": cyclic_share(results),
        "ties": _mean([points == 0.5 for points in firsts]),
        "left_out": _mean([match.orders is None for match in matches.values()]),
    }
    return {
        **{name: share for name, share in shares.items() if share is not None},
        "judge_calls": float(sum(match.calls for match in matches.values())),
        "judge_tokens": float(sum(match.tokens for match in matches.values())),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
