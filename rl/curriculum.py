"""Evo-CoT's curriculum, from shallow to deep: stages of difficulty, response budget and strength of the length reward.

Source: Ling 2.0 report (arXiv 2510.22115), section 4.2. A stage ends when the pass rate of what is sampled, over a
window of steps, reaches a bar, or after a number of steps, whichever comes first; the last stage lasts to the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evolpo import InputError
from evolpo.rl.data import LENGTH_ALPHA, Group, Prompt


@dataclass
class StageConfig:
    """One stage."""

    name: str = ""
    """What the stage is called in the log."""
    mix: dict[str, float] = field(default_factory=dict)
    """Share of the prompts by difficulty; empty: the weights of the data."""
    alpha: dict[str, float] = field(default_factory=dict)
    """Strength of the length reward by difficulty; a difficulty that is not listed keeps the reward's own."""
    max_response_tokens: int = 0
    """Budget of a response; 0: `rollout.max_response_tokens`, which no stage may exceed."""
    pass_rate: float = 0.0
    """The stage ends when this share of the responses has been right, over `window` steps; 0: never for that reason."""
    window: int = 5
    """Steps over which the pass rate is averaged."""
    steps: int = 0
    """The stage ends after so many steps at the latest; 0: no limit."""

    @property
    def shortest(self) -> int:
        """Steps that the stage lasts at the least, unless it is the last one."""
        ends = ([self.window] if self.pass_rate else []) + ([self.steps] if self.steps else [])
        return min(ends, default=0)


@dataclass
class CurriculumConfig:
    """Stages, in their order; none: all prompts from the beginning to the end."""

    stages: list[StageConfig] = field(default_factory=list)
    """The stages. What counts as right is a value above 0 of the first component of `rewards.components`."""

    def __post_init__(self) -> None:
        """Check every stage, that no two have one name, and that each but the last comes to an end."""
        named: dict[str, int] = {}
        for index, stage in enumerate(self.stages):
            name = f"curriculum.stages[{index}]"
            if stage.name and named.setdefault(stage.name, index) != index:
                raise InputError(f"{name}.name: {stage.name!r} is that of stages[{named[stage.name]}]; give another")
            if any(share < 0 for share in stage.mix.values()) or (stage.mix and not any(stage.mix.values())):
                raise InputError(f"{name}.mix: {stage.mix} are no shares; give numbers of 0 and more, not all 0")
            if any(alpha < 0 for alpha in stage.alpha.values()):
                raise InputError(f"{name}.alpha: {stage.alpha} would reward length; give 0 and more")
            if not 0 <= stage.pass_rate <= 1:
                raise InputError(f"{name}.pass_rate: {stage.pass_rate} is no share; give 0 to 1")
            for field_name, least in (("window", 1), ("steps", 0), ("max_response_tokens", 0)):
                if getattr(stage, field_name) < least:
                    raise InputError(f"{name}.{field_name}: {getattr(stage, field_name)} is below {least}")
            if index < len(self.stages) - 1 and not stage.steps and not stage.pass_rate:
                raise InputError(f"{name}: never ends, so later stages never begin; give steps or pass_rate")

    def check(self, difficulties: Sequence[str] | None, most_tokens: int, steps: int) -> None:
        """Raise InputError unless data, budget and length of the run fit the stages.

        No stage may ask for prompts that are not there or for a larger budget than there is, no stage may begin after
        the run's end, and no difficulty may be left out by all stages.

        Args:
            difficulties: of the data; None if they are not known yet, and are not checked.
            most_tokens: `rollout.max_response_tokens`.
            steps: of the run.
        """
        begins = 0
        for index, stage in enumerate(self.stages):
            if begins >= steps:
                raise InputError(
                    f"curriculum.stages[{index}]: never begins: the stages before it take {begins} steps or more and "
                    f"the run has steps={steps}; shorten them or raise steps"
                )
            begins += stage.shortest
            unknown = sorted(set(stage.mix) - set(difficulties)) if difficulties is not None else []
            if unknown:
                raise InputError(
                    f"curriculum.stages[{index}].mix: no source of data.train is of difficulty {', '.join(unknown)}; "
                    f"there is {', '.join(sorted(set(difficulties or ())))}"
                )
            if stage.max_response_tokens > most_tokens:
                raise InputError(
                    f"curriculum.stages[{index}].max_response_tokens: {stage.max_response_tokens} is more than "
                    f"rollout.max_response_tokens={most_tokens}; raise that or lower the stage's"
                )
        if self.stages and difficulties is not None and all(stage.mix for stage in self.stages):
            sampled = {difficulty for stage in self.stages for difficulty, share in stage.mix.items() if share > 0}
            left_out = sorted(set(difficulties) - sampled)
            if left_out:
                raise InputError(
                    f"curriculum.stages[0..{len(self.stages) - 1}].mix: no stage samples difficulty "
                    f"{', '.join(map(repr, left_out))} of data.train; add it to a mix or leave its sources out"
                )


class Curriculum:
    """Where a run stands in its stages. All state is in `state_dict`; what follows depends on nothing else."""

    def __init__(self, config: CurriculumConfig) -> None:
        self._stages = config.stages or [StageConfig()]
        self.number = 0
        """Of the stage, from 0."""
        self._seen: list[float] = []
        """Pass rates of this stage's steps."""

    @property
    def stage(self) -> StageConfig:
        """The stage at hand."""
        return self._stages[self.number]

    def marked(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts with the stage's alpha in their metadata, where it has one for their difficulty."""
        alpha = self.stage.alpha
        return [
            replace(prompt, metadata={**prompt.metadata, LENGTH_ALPHA: alpha[prompt.difficulty]})
            if prompt.difficulty in alpha
            else prompt
            for prompt in prompts
        ]

    def advance(self, passed: float) -> bool:
        """Note a step's pass rate and go on to the next stage if this one is over; whether it was."""
        self._seen.append(passed)
        stage = self.stage
        recent = self._seen[-stage.window :]
        good = stage.pass_rate > 0 and len(recent) == stage.window and sum(recent) / len(recent) >= stage.pass_rate
        over = good or (stage.steps > 0 and len(self._seen) >= stage.steps)
        if not over or self.number == len(self._stages) - 1:
            return False
        self.number, self._seen = self.number + 1, []
        return True

    def state_dict(self) -> dict[str, Any]:
        """The place in the curriculum, fit for JSON."""
        return {"number": self.number, "seen": list(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called.

        Raises:
            InputError: the stages have become fewer.
        """
        if state["number"] >= len(self._stages):
            raise InputError(f"curriculum.stages: the checkpoint is in stage {state['number'] + 1}; keep its stages")
        self.number, self._seen = state["number"], list(state["seen"])


@dataclass(frozen=True)
class Right:
    """When a response is right: by the value of one component of its reward."""

    component: str = ""
    """Name of the component; empty: the first one."""
    threshold: float = 1.0
    """Least value that is right."""

    def count(self, breakdown: Sequence[Mapping[str, float | None]]) -> tuple[int, int]:
        """How many of these responses are right, and how many the component gave a value.

        Args:
            breakdown: of each response, the value of each component by name.
        """
        values = [row.get(self.component or next(iter(row), "")) for row in breakdown]
        known = [value for value in values if value is not None]
        return sum(value >= self.threshold for value in known), len(known)


def passed(groups: Sequence[Group], right: Right) -> tuple[int, int]:
    """Responses that are right, and responses of which that is known."""
    counts = [right.count(group.breakdown) for group in groups]
    return sum(count for count, _ in counts), sum(known for _, known in counts)
