"""The reward for front-end code: syntax, function, aesthetics; each counts only if the one before passed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.rewards.base import Sample, Scope, Score
from evolpo.rewards.frontend.assertions import parse_checks, run_checks
from evolpo.rewards.frontend.browser import find_chromium
from evolpo.rewards.frontend.checklist import item_weights
from evolpo.rewards.frontend.extract import Page, extract_page
from evolpo.rewards.frontend.function import DEADLINE_S, PASS_SCORE, FunctionReport, exercise
from evolpo.rewards.frontend.relevance import Relevance, relevance
from evolpo.rewards.frontend.syntax import check_syntax
from evolpo.rewards.judges.judge import Judge
from evolpo.rewards.judges.make import make_judge
from evolpo.rewards.service.workers import describe

UNVERIFIED = 0.5
"""What a score is worth at most that no check and no judge stands behind."""
_NOTE = "unverified: no checks came with the prompt and no judge was asked; the score is at most 0.5"


class Frontend:
    """Scores the page in a response: 0 to 1, the weighted sum of three stages.

    A page that does not parse, hangs, crashes or is blank is a `model_fail`. The stage of function is worth its score
    times the evidence that the page is what was asked for: the share of `metadata["checks"]` that pass (see
    `assertions`), else the share of the items in `ASKED` that the judge finds true. It passes from 0.5 on. Without
    either, evidence is wanting: the whole score is halved, multiplied by the `relevance` of the page to the prompt, and
    `metrics["unverified"]` is 1.
    """

    name = "frontend"
    scope: Scope = "sample"
    resource = "browser"

    def __init__(
        self,
        syntax_weight: float = 0.2,
        function_weight: float = 0.4,
        aesthetics_weight: float = 0.4,
        deadline_s: float = DEADLINE_S,
        judge: Judge | str | Mapping[str, Any] | None = None,
        checklist_weights: dict[str, float] | None = None,
        packages: str = "",
    ) -> None:
        """Raises ValueError for weights that do not fit, InputError for a wrong judge or if Chromium is missing.

        Args:
            syntax_weight: share of the first stage.
            function_weight: share of the second.
            aesthetics_weight: share of the third; 0 leaves it out.
            deadline_s: seconds for the second stage of one page, without the time it waits for the browser.
            judge: a multimodal judge for the third stage (see `make_judge`); without one computed measures stand alone.
            checklist_weights: how much each item of its checklist counts; `evolpo bench aesthetics` fits them to what
                people say. All alike without them.
            packages: folder with npm packages (such as `node_modules`) that pages may load by the addresses of content
                delivery networks, besides those that set-up installed; empty for none.
        """
        weights = (syntax_weight, function_weight, aesthetics_weight)
        if min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"the weights {weights} must not be negative and must add up to 1")
        if deadline_s <= 0:
            raise ValueError(f"deadline_s {deadline_s} is no deadline; give seconds above 0")
        if checklist_weights is not None:
            if judge is None:
                raise ValueError("checklist_weights weigh what a judge says; give judge, or leave them out")
            item_weights(checklist_weights)
        if packages and not Path(packages).is_dir():
            raise InputError(f"packages: {packages} is no folder; give one with npm packages, such as node_modules")
        find_chromium()
        self._packages = (packages,) if packages else ()
        self.weights = weights
        self._checklist_weights = checklist_weights
        self._judge = None if judge is None else make_judge(judge)
        self.deadline_s = deadline_s

    async def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Judge the samples, a few at a time."""
        return list(await asyncio.gather(*(self._timed(sample) for sample in samples)))

    async def _timed(self, sample: Sample) -> Score:
        started = time.perf_counter()
        try:
            score = await self._score(sample)
        except TimeoutError as error:
            score = Score(None, "timeout", artifacts={"error": str(error)})
        except Exception as error:  # noqa: BLE001 - whatever went wrong here is not the response's fault
            score = Score.infra_error(describe(error))
        return replace(score, elapsed_s=time.perf_counter() - started)

    async def _score(self, sample: Sample) -> Score:
        page = extract_page(sample.text)
        if page is None:
            return Score.model_fail("no HTML or SVG document in the response")
        page = replace(page, packages=self._packages)
        syntax = await asyncio.to_thread(check_syntax, page)
        metrics = {"syntax": syntax.score, "syntax_errors": float(len(syntax.problems))}
        artifacts: dict[str, Any] = {"syntax": [f"{one.kind} {one.line}: {one.code}" for one in syntax.problems]}
        if not syntax.passed:
            first = next((one for one in syntax.problems if one.fatal), syntax.problems[0])
            return _failed(f"syntax: {first.kind}, line {first.line}: {first.code}", metrics, artifacts)
        function = await exercise(page, syntax.declarations, self.deadline_s)
        metrics |= {f"function_{name}": value for name, value in function.metrics.items()}
        artifacts |= _function_artifacts(function)
        if function.failure:
            return _failed(f"function: {function.failure}", metrics, artifacts)
        checks = await self._checks_share(sample, page, metrics, artifacts)
        look = None
        if function.score * (1.0 if checks is None else checks) >= PASS_SCORE:
            look = await self._look(function, sample.prompt, checks is None)
        if look is not None and look.unscored:
            return Score(None, look.status, metrics, {**artifacts, **look.artifacts})
        evidence = checks if checks is not None or look is None else look.metrics.get("asked")
        worth = function.score * (1.0 if evidence is None else evidence)
        metrics["function"] = worth
        value = self.weights[0] * syntax.score
        if worth < PASS_SCORE:
            artifacts["error"] = f"function: {worth:.2f} is below {PASS_SCORE:g}"
        else:
            value += self.weights[1] * worth
            if look is not None and self.weights[2] > 0:
                metrics["aesthetics"] = look.value or 0.0
                value += self.weights[2] * metrics["aesthetics"]
        if look is not None:
            metrics |= {f"aesthetics_{name}": number for name, number in look.metrics.items()}
            artifacts["aesthetics"] = dict(look.artifacts)
        if evidence is not None:
            return Score(value, metrics=metrics | {"evidence": evidence, "unverified": 0.0}, artifacts=artifacts)
        near = await asyncio.to_thread(_relevance, function, sample.prompt)
        artifacts |= {"unverified": _NOTE, "missing": near.missing}
        metrics |= near.metrics | {"unverified": 1.0}
        return Score(UNVERIFIED * near.value * value, metrics=metrics, artifacts=artifacts)

    async def _checks_share(
        self, sample: Sample, page: Page, metrics: dict[str, float], artifacts: dict[str, Any]
    ) -> float | None:
        """Share of the prompt's checks that pass, None without any."""
        if not sample.metadata.get("checks"):
            return None
        results = await run_checks(page, parse_checks(sample.metadata["checks"]), self.deadline_s)
        artifacts["checks"] = [result.reason or "passed" for result in results]
        metrics["checks"] = sum(result.passed for result in results) / len(results)
        return metrics["checks"]

    async def _look(self, function: FunctionReport, task: str, ask: bool) -> Score | None:
        """The stage of aesthetics; the judge is also asked for evidence if there is none yet. None if nobody looks."""
        from evolpo.rewards.frontend.aesthetics import aesthetics_from_image
        from evolpo.rewards.frontend.visual_judge import judged_aesthetics

        screenshots = function.screenshots
        if self._judge is not None and (ask or self.weights[2] > 0):
            used = record_of_use(function) if ask else None
            return await judged_aesthetics(screenshots, task, self._judge, weights=self._checklist_weights, used=used)
        if self.weights[2] == 0:
            return None
        return await asyncio.to_thread(aesthetics_from_image, screenshots[1])


def _failed(reason: str, metrics: dict[str, float], artifacts: dict[str, Any]) -> Score:
    return Score(0.0, "model_fail", metrics, {**artifacts, "error": reason})


def record_of_use(function: FunctionReport) -> str:
    """What happened when the page was used, a line for each control and each message, for a judge."""
    controls = function.controls.verdicts if function.controls else {}
    said = {"works": "did something", "dead": "did nothing", "covered": "could not be reached", "neutral": "took it"}
    said["same"] = "did what all others do"
    lines = [f"{name}: {said.get(verdict, verdict)}" for name, verdict in controls.items()]
    return "\n".join([*lines, *function.messages]) or "There is nothing to use."


def _relevance(function: FunctionReport, prompt: str) -> Relevance:
    return relevance(prompt, function.seen, function.controls.verdicts if function.controls else None)


def _function_artifacts(function: FunctionReport) -> dict[str, Any]:
    return {
        "controls": dict(function.controls.verdicts) if function.controls else {},
        "messages": list(function.messages),
        "violations": list(function.violations),
        "overflow": dict(function.overflow),
        "screenshots": function.screenshots,
    }
