"""Several rewards become one: weights, gates, retries, and a breakdown of what each of them said."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

from evolpo import InputError
from evolpo.rewards.base import COLD_TIMEOUT_S, Reward, Sample, Score
from evolpo.rewards.fit import why_unfit
from evolpo.rewards.registry import load_reward
from evolpo.rewards.service.config import ServiceConfig
from evolpo.rewards.service.service import RewardService
from evolpo.rewards.service.waiting import result_of
from evolpo.rewards.stack_metrics import component_metrics, correlations
from evolpo.rewards.unscored import Failure, RewardError, UnscoredResponses
from evolpo.rl.data import Group, Prompt

__all__ = ["RewardError", "RewardSpec", "RewardStack", "RewardsConfig", "Scoring"]

CLOSED_GATE = Score(None, "skipped")


@dataclass
class RewardSpec:
    """One component of the reward."""

    use: str = ""
    """Name of an installed reward, or `module:attribute`; the current directory is importable."""
    weight: float = 1.0
    """Factor of the component's value in the reward; 0 only logs it."""
    gate: bool = False
    """Components after a gate count only if its value is above 0; passing a gate never lowers the reward."""
    tasks: list[str] = field(default_factory=list)
    """Tasks that the component judges, by the name that the data give them (`task`, `task_column`); empty: all."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the reward."""


@dataclass
class RewardsConfig:
    """What a response is worth. Raises InputError where a field makes no sense."""

    components: list[RewardSpec] = field(default_factory=list)
    """The components, in the order in which gates apply."""
    max_unscored: float = 0.05
    """Share of the last 1,000 responses without a reward above which a run ends; up to 8 of them never end it."""
    timeout_s: float = 10.0
    """Seconds a reward may work on one response (a group reward: on one group) unless it says otherwise."""
    cold_timeout_s: float = COLD_TIMEOUT_S
    """The same for the first call in a fresh process, in which a reward may load a model."""
    service: ServiceConfig = field(default_factory=ServiceConfig)
    """How the rewards are dispatched."""

    def __post_init__(self) -> None:
        for index, spec in enumerate(self.components):
            name = f"rewards.components[{index}]"
            if not spec.use:
                raise InputError(f"{name}.use: is empty; give the name of a reward or module:attribute")
            if not math.isfinite(spec.weight):
                raise InputError(f"{name}.weight: {spec.weight} is not finite; give a number")
            if spec.gate and spec.weight < 0:
                raise InputError(f"{name}.weight: {spec.weight} would punish passing the gate; give 0 or more")
        if not 0 <= self.max_unscored <= 1:
            raise InputError(f"rewards.max_unscored: {self.max_unscored} is no share; give 0 to 1")
        for name in ("timeout_s", "cold_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"rewards.{name}: {getattr(self, name)} is no deadline; give seconds above 0")


@dataclass(frozen=True, slots=True)
class _Component:
    name: str
    use: str
    reward: Reward
    weight: float
    gate: bool
    tasks: frozenset[str] = frozenset()

    def judges(self, task: str) -> bool:
        """Whether it is a component of this task's reward."""
        return not self.tasks or task in self.tasks

    @property
    def counts(self) -> bool:
        """Whether the reward depends on this component."""
        return self.gate or self.weight != 0


class Scoring:
    """The scoring of one step's groups, in the background."""

    def __init__(self, stack: RewardStack) -> None:
        self._stack = stack
        self._futures: dict[int, Future[list[list[Score]]]] = {}

    def add(self, group: Group) -> None:
        """Begin with a group; the caller goes on."""
        self._futures[id(group)] = self._stack.start(group)

    def result(self, groups: Sequence[Group]) -> list[Group]:
        """What `RewardStack.score` returns or raises, for all groups that were added, in the order given."""
        return self._stack.finish(groups, [result_of(self._futures[id(group)]) for group in groups])


class RewardStack:
    """Scores groups with all components of a configuration.

    The reward of a response is the weighted sum of its components. At a gate with value <= 0 the sum ends and later
    components are not even run; at a gate with value > 0 what follows counts, but never less than 0 in total, so that
    passing a gate never lowers the reward. What a component with `tasks` does not judge has no part in it: neither its
    value nor its gate.
    """

    def __init__(self, config: RewardsConfig) -> None:
        """Load all components. Raises InputError if there are none, or one cannot be loaded."""
        if not config.components:
            raise InputError("rewards.components: is empty; list at least one, e.g. {use: math}")
        self._config = config
        self._components = _load_components(config)
        # One event loop for the whole run: a plugin's HTTP client survives from step to step.
        self._service = RewardService(config.service)
        self.unscored = UnscoredResponses(config.max_unscored)
        """The responses without a reward; `unscored.file` is where they are written."""
        self.last_metrics: dict[str, float] = {}
        """Of the last step, by component: mean value, share unscored, seconds a response, and its own metrics."""

    @property
    def names(self) -> list[str]:
        """Names of the components, as in `breakdown`."""
        return [one.name for one in self._components]

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """The same groups with `rewards` and `breakdown` set.

        A reward is None where a component stayed unscored, and where none has anything to say.

        Components run at the same time, up to the next gate. A gated group reward still gets its whole group; what it
        says about responses that did not pass is dropped.

        Raises:
            RewardError: too many of the last responses have no reward.
        """
        scoring = self.begin()
        for group in groups:
            scoring.add(group)
        return scoring.result(groups)

    def begin(self) -> Scoring:
        """Score groups in the background, as they come: add them one by one and ask for the result at the end."""
        return Scoring(self)

    def close(self) -> None:
        """End the event loop and the worker processes."""
        self._service.close(drain=False)

    def start(self, group: Group) -> Future[list[list[Score]]]:
        """Work one group out in the background: its scores, [component][response]."""
        samples = [Sample.of(group.prompt, response) for response in group.responses]
        return self._service.run(self._score_components(samples, [range(len(samples))], group.prompt.task))

    @property
    def tasks(self) -> frozenset[str]:
        """Tasks that components name."""
        return frozenset().union(*(one.tasks for one in self._components))

    def why_unfit(self, prompt: Prompt) -> str | None:
        """Why responses to a prompt could not be judged, as far as the rewards say what they need; None if they can."""
        judging = [(i, one) for i, one in enumerate(self._components) if one.judges(prompt.task)]
        if not judging:
            return f"no component of rewards.components judges its task {prompt.task!r}"
        for index, one in judging:
            why = why_unfit(one.reward, prompt) if one.gate or one.weight else None
            if why is not None:
                return f"rewards.components[{index}] ({one.name}) cannot judge it: {why}"
        return None

    def failures_alone(self, group: Group) -> list[tuple[int, Failure]]:
        """Each component on its own, gates and weights aside, on one group: which of them fail on a response, and why.

        Returns index of the component and first failure of those that failed; what a component says is of no matter.
        """
        return result_of(self._service.run(self._failures_alone(group)))

    def finish(self, groups: Sequence[Group], columns: Sequence[list[list[Score]]]) -> list[Group]:
        """Rewards, metrics and the check of what stayed unscored, from the scores of all groups of a step."""
        by_component = [[score for group in columns for score in group[i]] for i in range(len(self._components))]
        sizes = [len(group.responses) for group in groups]
        stats = self._service.stats(reset=True)
        self.last_metrics = correlations([one.name for one in self._components], by_component)
        for component, column in zip(self._components, by_component, strict=True):
            metrics = component_metrics(column, sizes)
            if metrics and component.reward.name in stats:
                waits = stats[component.reward.name]
                metrics |= {"seconds_queued_p50": waits.queue_wait_p50_s, "seconds_queued_p99": waits.queue_wait_p99_s}
            self.last_metrics |= {f"reward/{component.name}/{key}": value for key, value in metrics.items()}
        by_response = list(zip(*by_component, strict=True))  # [response][component]
        failures = [_failures(self._components, column) for column in by_response]
        if failures:
            self.last_metrics["reward/unscored"] = sum(map(bool, failures)) / len(failures)
        self.unscored.add(groups, failures)
        rows = _rows(groups)
        return [self._scored(group, by_response[row.start : row.stop]) for group, row in zip(groups, rows, strict=True)]

    def scored(self, group: Group, scores: list[list[Score]]) -> Group:
        """A group with its rewards, from its scores alone: nothing is counted or measured."""
        return self._scored(group, list(zip(*scores, strict=True)))

    async def _failures_alone(self, group: Group) -> list[tuple[int, Failure]]:
        samples = [Sample.of(group.prompt, response) for response in group.responses]
        found = []
        for index, one in enumerate(self._components):
            if not one.judges(group.prompt.task):
                continue
            scores = await self._score_component(one.reward, samples, [range(len(samples))], [True] * len(samples))
            failed = next((score for score in scores if score.unscored), None)
            if failed is not None:
                found.append((index, Failure(one.name, one.use, one.reward.scope == "group", failed)))
        return found

    async def _score_components(self, samples: Sequence[Sample], rows: Sequence[range], task: str) -> list[list[Score]]:
        judging = [one for one in self._components if one.judges(task)]
        passed = [True] * len(samples)
        scores: list[list[Score]] = []
        for stage in _stages(judging):
            scores += await asyncio.gather(*(self._score_component(one.reward, samples, rows, passed) for one in stage))
            # The last component of a stage is its gate; after the last stage nobody asks. What it has nothing to say
            # about it lets pass.
            passed = [
                open_ and (score.status == "skipped" if score.value is None else score.value > 0)
                for open_, score in zip(passed, scores[-1], strict=True)
            ]
        found = iter(scores)
        return [next(found) if one.judges(task) else [CLOSED_GATE] * len(samples) for one in self._components]

    async def _score_component(
        self, reward: Reward, samples: Sequence[Sample], rows: Sequence[range], passed: Sequence[bool]
    ) -> list[Score]:
        calls: list[Sequence[int]] = (
            [row for row in rows if any(passed[index] for index in row)]
            if reward.scope == "group"
            else [[index for index, open_ in enumerate(passed) if open_]]
        )
        answers = await asyncio.gather(
            *(self._service.score(reward, [samples[index] for index in call]) for call in calls)
        )
        scores = [CLOSED_GATE] * len(samples)
        for call, answer in zip(calls, answers, strict=True):
            for index, score in zip(call, answer, strict=True):
                scores[index] = score if passed[index] else CLOSED_GATE
        return scores

    def _scored(self, group: Group, columns: Sequence[Sequence[Score]]) -> Group:
        judging = [i for i, one in enumerate(self._components) if one.judges(group.prompt.task)]
        components = [self._components[i] for i in judging]
        chosen = [[column[i] for i in judging] for column in columns]
        return replace(
            group,
            rewards=tuple(_combined(components, column) for column in chosen),
            breakdown=tuple(
                {one.name: score.value for one, score in zip(components, column, strict=True)} for column in chosen
            ),
        )


def _load_components(config: RewardsConfig) -> list[_Component]:
    components: list[_Component] = []
    for index, spec in enumerate(config.components):
        field_name = f"rewards.components[{index}].use"
        reward = load_reward(spec.use, field_name, spec.options, config.timeout_s, config.cold_timeout_s)
        same = sum(one.reward.name == reward.name for one in components)
        name = f"{reward.name}_{same + 1}" if same else reward.name
        components.append(_Component(name, spec.use, reward, spec.weight, spec.gate, frozenset(spec.tasks)))
    return components


def _rows(groups: Sequence[Group]) -> list[range]:
    """Where each group stands in the list of all responses."""
    ends = list(accumulate((len(group.responses) for group in groups), initial=0))
    return [range(start, end) for start, end in pairwise(ends)]


def _stages(components: Sequence[_Component]) -> list[list[_Component]]:
    """Runs of components that end with a gate: the next run needs its result."""
    stages: list[list[_Component]] = [[]]
    for component in components:
        if stages[-1] and stages[-1][-1].gate:
            stages.append([])
        stages[-1].append(component)
    return stages


def _failures(components: Sequence[_Component], scores: Sequence[Score]) -> list[Failure]:
    """What leaves one response without a reward: components that failed, or that all have nothing to say."""
    counting = [pair for pair in zip(components, scores, strict=True) if pair[0].counts]
    failed = [(one, score) for one, score in counting if score.unscored]
    if not failed and counting and all(score.status == "skipped" for _, score in counting):
        failed = counting
    return [Failure(one.name, one.use, one.reward.scope == "group", score) for one, score in failed]


def _combined(components: Sequence[_Component], scores: Sequence[Score]) -> float | None:
    """The reward of one response, from its last component to its first."""
    if _failures(components, scores):
        return None
    total = 0.0
    for component, score in reversed(list(zip(components, scores, strict=True))):
        if component.gate and score.value is not None:
            total = max(total, 0.0)  # Behind a closed gate everything is skipped and the total is 0 anyway.
        total += component.weight * (score.value or 0.0)
    return total
