"""Several rewards become one: weights, gates, retries, and a breakdown of what each of them said."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

from evolpo import InputError
from evolpo.rewards.base import Reward, Sample, Score
from evolpo.rewards.registry import load_reward
from evolpo.rewards.service.config import ServiceConfig
from evolpo.rewards.service.service import RewardService
from evolpo.rewards.stack_metrics import component_metrics, correlations
from evolpo.rl.data import Group

SKIPPED = Score(None, "skipped")


class RewardError(RuntimeError):
    """Too many responses could not be scored for the step to be trusted."""


@dataclass
class RewardSpec:
    """One component of the reward."""

    use: str = ""
    """Name of an installed reward, or `module:attribute`; the current directory is importable."""
    weight: float = 1.0
    """Factor of the component's value in the reward; 0 only logs it."""
    gate: bool = False
    """Components after a gate count only if its value is above 0; passing a gate never lowers the reward."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the reward."""


@dataclass
class RewardsConfig:
    """What a response is worth. Raises InputError where a field makes no sense."""

    components: list[RewardSpec] = field(default_factory=list)
    """The components, in the order in which gates apply."""
    max_unscored: float = 0.001
    """Share of responses without a reward, through errors or timeouts, above which a step fails."""
    timeout_s: float = 10.0
    """Seconds a reward may work on one response (a group reward: on one group) unless it says otherwise."""
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
        if not 0 < self.timeout_s < math.inf:
            raise InputError(f"rewards.timeout_s: {self.timeout_s} is no deadline; give seconds above 0")


@dataclass(frozen=True, slots=True)
class _Component:
    name: str
    reward: Reward
    weight: float
    gate: bool

    def leaves_unscored(self, score: Score) -> bool:
        """Whether this score leaves the response without a reward."""
        return score.unscored and (self.gate or self.weight != 0)


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
        return self._stack.finish(groups, [self._futures[id(group)].result() for group in groups])


class RewardStack:
    """Scores groups with all components of a configuration.

    The reward of a response is the weighted sum of its components. At a gate with value <= 0 the sum ends and later
    components are not even run; at a gate with value > 0 what follows counts, but never less than 0 in total, so that
    passing a gate never lowers the reward.
    """

    def __init__(self, config: RewardsConfig) -> None:
        """Load all components. Raises InputError if there are none, or one cannot be loaded."""
        if not config.components:
            raise InputError("rewards.components: is empty; list at least one, e.g. {use: math}")
        self._config = config
        self._components = _load_components(config)
        # One event loop for the whole run: a plugin's HTTP client survives from step to step.
        self._service = RewardService(config.service)
        self.last_metrics: dict[str, float] = {}
        """Of the last step, by component: mean value, share unscored, seconds a response, and its own metrics."""

    @property
    def names(self) -> list[str]:
        """Names of the components, as in `breakdown`."""
        return [one.name for one in self._components]

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """The same groups with `rewards` and `breakdown` set; a reward is None where a component stayed unscored.

        Components run at the same time, up to the next gate. A gated group reward still gets its whole group; what it
        says about responses that did not pass is dropped.

        Raises:
            RewardError: more than `max_unscored` of the responses have no reward.
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
        return self._service.run(self._score_components(samples, [range(len(samples))]))

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
        self._check_unscored(by_response)
        rows = _rows(groups)
        return [self._scored(group, by_response[row.start : row.stop]) for group, row in zip(groups, rows, strict=True)]

    async def _score_components(self, samples: Sequence[Sample], rows: Sequence[range]) -> list[list[Score]]:
        passed = [True] * len(samples)
        scores: list[list[Score]] = []
        for stage in _stages(self._components):
            scores += await asyncio.gather(*(self._score_component(one.reward, samples, rows, passed) for one in stage))
            # The last component of a stage is its gate; after the last stage nobody asks.
            passed = [score.value is not None and score.value > 0 for score in scores[-1]]
        return scores

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
        scores = [SKIPPED] * len(samples)
        for call, answer in zip(calls, answers, strict=True):
            for index, score in zip(call, answer, strict=True):
                scores[index] = score if passed[index] else SKIPPED
        return scores

    def _scored(self, group: Group, columns: Sequence[Sequence[Score]]) -> Group:
        return replace(
            group,
            rewards=tuple(_combined(self._components, column) for column in columns),
            breakdown=tuple(
                {one.name: score.value for one, score in zip(self._components, column, strict=True)}
                for column in columns
            ),
        )

    def _check_unscored(self, columns: Sequence[Sequence[Score]]) -> None:
        """Raise RewardError if too many responses have no reward; `columns[response][component]`."""
        counts: Counter[str] = Counter()
        first_errors: dict[str, str] = {}
        unscored = 0
        for column in columns:
            failed = [
                (one.name, score)
                for one, score in zip(self._components, column, strict=True)
                if one.leaves_unscored(score)
            ]
            unscored += bool(failed)
            for name, score in failed:
                counts[name] += 1
                first_errors.setdefault(name, f"{score.status}: {score.error}")
        if unscored > self._config.max_unscored * len(columns):
            parts = [f"{name} failed on {count} (first {first_errors[name]})" for name, count in counts.most_common()]
            raise RewardError(
                f"{unscored} of {len(columns)} responses have no reward, more than "
                f"rewards.max_unscored={self._config.max_unscored:g} allows: {'; '.join(parts)}"
            )


def _load_components(config: RewardsConfig) -> list[_Component]:
    components: list[_Component] = []
    for index, spec in enumerate(config.components):
        reward = load_reward(spec.use, f"rewards.components[{index}].use", spec.options, config.timeout_s)
        same = sum(one.reward.name == reward.name for one in components)
        name = f"{reward.name}_{same + 1}" if same else reward.name
        components.append(_Component(name, reward, spec.weight, spec.gate))
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


def _combined(components: Sequence[_Component], scores: Sequence[Score]) -> float | None:
    """The reward of one response, from its last component to its first."""
    total = 0.0
    for component, score in reversed(list(zip(components, scores, strict=True))):
        if component.leaves_unscored(score):
            return None
        if component.gate:
            total = max(total, 0.0)  # Behind a closed gate everything is skipped and the total is 0 anyway.
        total += component.weight * (score.value or 0.0)
    return total
