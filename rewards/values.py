"""What a reward says about one response, and how the results of plain functions are read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, Literal, SupportsFloat, get_args

Status = Literal["ok", "model_fail", "infra_error", "timeout", "skipped"]


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward says about one response. Raises ValueError if value and status contradict each other."""

    value: float | None
    """Finite for `ok`, 0 for `model_fail`, None for every other status."""
    status: Status = "ok"
    """`ok`; `model_fail`: the response is bad; `infra_error`, `timeout`: our fault; `skipped`: not judged."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers to log beside the value; the stack logs their means."""
    artifacts: Mapping[str, Any] = field(default_factory=dict)
    """Anything worth keeping for a person to look at; `error` is the reason for a status that is not `ok`."""
    elapsed_s: float = 0.0
    """Seconds the reward worked on this response, waiting in queues left out."""

    def __post_init__(self) -> None:
        for name in ("metrics", "artifacts"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"Score.{name} is {_shown(getattr(self, name))}; give a mapping by name")
        for name in ("value", "elapsed_s"):  # plain floats, whoever's numbers they were: they go into files
            if type(given := getattr(self, name)) is not float and given is not None:
                object.__setattr__(self, name, _plain_float(given, f"Score.{name}"))
        if self.status not in get_args(Status):
            raise ValueError(f"Score.status {self.status!r} is none of {', '.join(get_args(Status))}")
        if self.status == "ok" and (self.value is None or not math.isfinite(self.value)):
            raise ValueError(f"Score.value {self.value} with status ok: give a finite number")
        if self.status == "model_fail" and self.value != 0.0:
            raise ValueError(f"Score.value {self.value} with status model_fail: give 0.0")
        if self.status in ("infra_error", "timeout", "skipped") and self.value is not None:
            raise ValueError(f"Score.value {self.value} with status {self.status}: give None")

    @property
    def unscored(self) -> bool:
        """Whether the response got no score through our own fault."""
        return self.status in ("infra_error", "timeout")

    @property
    def error(self) -> str:
        """Why the status is not `ok`, empty if nothing was said."""
        return str(self.artifacts.get("error", ""))

    @classmethod
    def model_fail(cls, reason: str) -> Score:
        """The response is bad in a way that leaves nothing to judge: value 0, and why."""
        return cls(0.0, "model_fail", artifacts={"error": reason})

    @classmethod
    def infra_error(cls, error: str, elapsed_s: float = 0.0) -> Score:
        """The reward itself went wrong: no value, and why."""
        return cls(None, "infra_error", artifacts={"error": error}, elapsed_s=elapsed_s)


NOT_MINE = Score(None, "skipped")
"""The score of a reward that has nothing to say about a response."""


def score_of(result: Any) -> Score:
    """The score that a function's result for one response stands for.

    A `Score` is one; None is `skipped`; everything that is one number counts with its value (bool, int, float, Decimal,
    Fraction, the scalars of numpy and torch). A number that is not finite and everything else, text above all, is
    `infra_error`.
    """
    if type(result) is float and math.isfinite(result):
        return Score(result)
    if isinstance(result, Score):
        return _with_plain_metrics(result)
    if result is None:
        return NOT_MINE
    if not isinstance(result, SupportsFloat):
        return Score.infra_error(f"returned {_shown(result)}: a reward returns a number, None or a Score")
    try:
        return Score(float(result))
    except Exception as error:  # noqa: BLE001 - __float__ is the plugin's
        return Score.infra_error(f"returned {_shown(result)}: {error}")


def group_results(results: Any) -> list[Score]:
    """The scores that a function's results for a group stand for: a list, a tuple, an array or an iterator.

    Raises:
        TypeError: it is none of these; a mapping or a set has no order that could be that of the responses.
    """
    if hasattr(results, "tolist"):
        results = results.tolist()
    if isinstance(results, str | bytes | Mapping | Set) or not isinstance(results, Iterable):
        raise TypeError(f"returned {_shown(results)}: a list with one result a response is needed")
    return [score_of(result) for result in results]


def _plain_float(value: Any, name: str) -> float:
    if isinstance(value, SupportsFloat) and not isinstance(value, str):
        try:
            return float(value)
        except Exception as error:  # noqa: BLE001 - __float__ is the plugin's
            raise ValueError(f"{name} is {_shown(value)}: {error}") from None
    raise ValueError(f"{name} is {_shown(value)}; give a number")


def _with_plain_metrics(score: Score) -> Score:
    """The score with finite floats as metrics, whatever kind of numbers they were; what is none is left out."""
    if all(type(value) is float and math.isfinite(value) for value in score.metrics.values()):
        return score
    return replace(score, metrics=plain_numbers(score.metrics))


def plain_values(value: Any, depth: int = 8) -> Any:
    """What JSON has of a value, tuples as lists; bytes, other objects and what is deeper are left out."""
    if isinstance(value, str | bool) or value is None or (isinstance(value, int | float) and math.isfinite(value)):
        return value
    if isinstance(value, Mapping) and depth:
        told = ((str(name), plain_values(one, depth - 1)) for name, one in value.items())
        return {name: one for name, one in told if one not in (None, [], {})}
    if isinstance(value, list | tuple) and depth:
        return [one for one in (plain_values(each, depth - 1) for each in value) if one is not None]
    return None


def plain_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Those of the values that are one finite number, as floats: one that is none would spoil the mean of a step."""
    numbers = {}
    for name, value in metrics.items():
        if not isinstance(value, SupportsFloat):
            continue
        try:
            number = float(value)
        except Exception:  # noqa: BLE001 - __float__ is the plugin's
            continue
        if math.isfinite(number):
            numbers[str(name)] = number
    return numbers


def _shown(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - __repr__ is the plugin's
        text = "an object that cannot be shown"
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
