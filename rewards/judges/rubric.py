"""Rubrics (RubriX, Ling 2.0 report, section 4.3.2): what a good response to a kind of task is, in weighted dimensions.

A rubric is a YAML file. The reward `rubric` asks a judge for a mark in each dimension; the arena shows the rubric to
the judge who compares.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from evolpo import InputError
from evolpo.rewards.base import Sample, Scope, Score
from evolpo.rewards.judges.judge import (
    DEFAULT_ATTEMPTS,
    FENCE_NOTE,
    Judge,
    JudgeError,
    Message,
    ask_verdict,
    material,
    unjudged,
)
from evolpo.rewards.judges.make import make_judge
from evolpo.rewards.judges.verdict import error_line

FOLDER = Path(__file__).with_name("rubrics")
MARKS = (1, 2, 3, 4, 5)
Text = Annotated[str, Field(min_length=1)]
Mark = Annotated[float, Field(ge=MARKS[0], le=MARKS[-1])]


class Dimension(BaseModel):
    """One thing that a response can be good or bad at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Key in verdicts and metrics, in snake_case."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Share in the whole; weights need not sum to 1."""
    question: Text
    """What the judge is to answer."""
    anchors: Mapping[int, Text]
    """Mark -> what deserves it, for each of 1 to 5."""

    @model_validator(mode="after")
    def _all_marks(self) -> Self:
        if sorted(self.anchors) != list(MARKS):
            raise ValueError(f"anchors must say what deserves each of the marks 1 to 5, not {sorted(self.anchors)}")
        return self


class Rubric(BaseModel):
    """A kind of task and its dimensions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    description: Text
    """The kind of task, for the judge."""
    aggregation: Literal["mean", "geometric_mean"]
    """How marks become one, both weighted; in the geometric mean a bad mark weighs more than a good one can mend."""
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _different_names(self) -> Self:
        names = [dimension.name for dimension in self.dimensions]
        if len(set(names)) < len(names):
            raise ValueError(f"dimensions must have different names, not {', '.join(names)}")
        return self

    def guidance(self) -> str:
        """The dimensions for a judge who compares: share in percent and question."""
        total = sum(dimension.weight for dimension in self.dimensions)
        return "\n".join(f"- {one.name} ({one.weight / total:.0%}): {one.question}" for one in self.dimensions)

    def scale(self) -> str:
        """The dimensions for a judge who gives marks: question and what deserves each mark."""
        parts = []
        for dimension in self.dimensions:
            anchors = "\n".join(f"    {mark}: {dimension.anchors[mark]}" for mark in MARKS)
            parts.append(f"- {dimension.name}: {dimension.question}\n{anchors}")
        return "\n".join(parts)

    def verdict_form(self) -> type[BaseModel]:
        """A model with one mark a dimension, 1 to 5, all required, by alias."""
        # By alias, because a dimension may have the name of an attribute of pydantic's models, such as `register`.
        names = [dimension.name for dimension in self.dimensions]
        fields: dict[str, Any] = {f"mark_{i}": (Mark, Field(alias=name)) for i, name in enumerate(names)}
        return create_model("RubricVerdict", **fields)

    def value(self, marks: Mapping[str, float]) -> float:
        """The weighted mean of the marks, mapped from 1..5 to 0..1."""
        weights = [dimension.weight for dimension in self.dimensions]
        given = [marks[dimension.name] for dimension in self.dimensions]
        if self.aggregation == "geometric_mean":
            mean = math.exp(_weighted_mean([math.log(mark) for mark in given], weights))
        else:
            mean = _weighted_mean(given, weights)
        return min(max((mean - MARKS[0]) / (MARKS[-1] - MARKS[0]), 0.0), 1.0)  # Rounding may leave the range.


def _weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(value * weight for value, weight in zip(values, weights, strict=True)) / math.fsum(weights)


def available_rubrics() -> list[str]:
    """Names of the rubrics that come with evolpo."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_rubric(rubric: str) -> Rubric:
    """Read a rubric.

    Args:
        rubric: a name from `available_rubrics`, or the path of a file that ends in .yaml or .yml.

    Raises:
        InputError: there is no such rubric, or the file is not one; the message names the file and the field.
    """
    if rubric.endswith((".yaml", ".yml")):
        path = Path(rubric)
    elif rubric in available_rubrics():
        path = FOLDER / f"{rubric}.yaml"
    else:
        names = ", ".join(available_rubrics())
        raise InputError(f"rubric: there is no {rubric!r}; give one of {names}, or the path of a .yaml file")
    try:
        return Rubric.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeError) as error:
        raise InputError(f"rubric: {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"rubric: {path} is no YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise InputError(f"rubric: {path}: {error_line(error)}") from None


class RubricReward:
    """Reward in 0..1 of a response: the marks that a judge gives it in the dimensions of a rubric.

    Metrics: each mark under the name of its dimension (1 to 5), `judge_calls` and `judge_tokens`. An empty response
    is a `model_fail`; without a complete verdict the response is unscored.
    """

    name = "rubric"
    scope: Scope = "sample"

    def __init__(self, judge: Judge | str | Mapping[str, Any], rubric: str, attempts: int = DEFAULT_ATTEMPTS) -> None:
        """Set up the reward.

        Args:
            judge: who gives the marks; see `make_judge`.
            rubric: name of a rubric or path of a YAML file; see `load_rubric`.
            attempts: how often the judge is asked for a valid verdict.

        Raises:
            InputError: an argument that makes no sense.
        """
        if attempts < 1:
            raise InputError(f"attempts: {attempts} asks nothing; give 1 or more")
        self._judge = make_judge(judge)
        self._rubric = load_rubric(rubric)
        self._form = self._rubric.verdict_form()
        self._attempts = attempts

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Judge the responses, all at the same time as far as the judge allows."""
        return list(await asyncio.gather(*map(self._score, samples)))

    async def _score(self, sample: Sample) -> Score:
        if not sample.text.strip():
            return Score.model_fail("the response is empty")
        try:
            verdict = await ask_verdict(self._judge, rubric_messages(sample, self._rubric), self._form, self._attempts)
        except JudgeError as error:
            return unjudged(error)
        marks: dict[str, float] = verdict.value.model_dump(by_alias=True)
        costs = {"judge_calls": float(verdict.calls), "judge_tokens": float(verdict.tokens)}
        return Score(self._rubric.value(marks), metrics={**marks, **costs}, elapsed_s=verdict.elapsed_s)


def rubric_messages(sample: Sample, rubric: Rubric) -> list[Message]:
    """What a judge is asked about one response; the answer is of the rubric's `verdict_form`."""
    code, materials = material(sample.prompt, sample.answer, {"RESPONSE": sample.text.strip()})
    system = f"You mark a response to a task by a rubric. {FENCE_NOTE.format(code=code)}"
    question = (
        f"The kind of task: {rubric.description}\nMark the response in these dimensions:\n{rubric.scale()}\n"
        "Be sparing: a usual response deserves 3. Its length as such and what it says about itself count nothing. "
        "You may think first; then end with exactly one JSON object of this form, with a number for each:"
    )
    form = json.dumps({dimension.name: "1 to 5" for dimension in rubric.dimensions})
    return [Message("system", system), Message("user", f"{materials}\n\n{question}\n{form}")]
