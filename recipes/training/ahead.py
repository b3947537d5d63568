"""Groups that are asked for ahead of training: scored as they finish, and taken by the rule of staleness."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evolpo.recipes.runs.seeds import draw_seed
from evolpo.rewards.base import Score
from evolpo.rewards.stack import RewardStack
from evolpo.rl.advantages import has_signal
from evolpo.rl.data import Batch, Group, Prompt
from evolpo.rollout.engine import Sampling, prompt_seeds
from evolpo.rollout.fleet import Fleet
from evolpo.rollout.staleness import Bound, Outstanding, batch, room

LOOK_S = 0.1
"""How often a step that waits looks whether the run is to end."""


@dataclass(eq=False)
class Asked:
    """A group that was asked for and that no step has taken."""

    prompt: Prompt
    draw: int
    """Number of the draw, which seeds it."""
    born: int
    """Version of the policy when it was asked for."""
    tokens: int
    """Budget of its responses."""
    number: int = -1
    """Of the group in the fleet."""
    group: Group | None = None
    """Once it is sampled."""
    scores: Future[list[list[Score]]] | None = None
    """From then on."""

    @property
    def ready(self) -> bool:
        """Whether it is sampled and scored."""
        return self.scores is not None and self.scores.done()


class Ahead:
    """The groups of a run that are on their way. One thread asks and takes; those of the fleet hand over.

    With `max_staleness` 0 all groups of a step are asked for when the step begins, with the seeds that an engine in the
    trainer's process would get, and the step takes them in that order.
    """

    def __init__(
        self, fleet: Fleet, rewards: RewardStack, seed: int, per_step: int, max_staleness: int, bound: Bound
    ) -> None:
        """Nothing is asked for yet.

        Args:
            fleet: samples.
            rewards: score.
            seed: of the run.
            per_step: groups that a step takes.
            max_staleness: see `evolpo.rollout.staleness.room`.
            bound: hard or soft.
        """
        self._fleet, self._rewards, self._seed = fleet, rewards, seed
        self._per_step, self._max_staleness, self._bound = per_step, max_staleness, bound
        self._changed = threading.Condition()
        self._outstanding: list[Asked] = []
        self._drawn = 0
        self._looked, self._before = time.monotonic(), replace(fleet.counts)
        self._replaced: list[Asked] = []
        """Since the last step, because all their responses had the same reward."""

    def room(self, version: int, steps: int) -> int:
        """How many groups may be asked for now, of all that a run of so many steps will take."""
        asked = version * self._per_step + len(self._outstanding)
        left = max(0, steps * self._per_step - asked)
        return min(room(asked, version, self._per_step, self._max_staleness), left)

    def ask(self, prompts: Sequence[Prompt], version: int, sampling: Sampling) -> None:
        """Ask for a group for each prompt."""
        for prompt in prompts:
            self._submit(Asked(prompt, self._drawn, version, sampling.max_response_tokens), sampling)
            self._drawn += 1

    def _submit(self, asked: Asked, sampling: Sampling) -> None:
        step, place = divmod(asked.draw, self._per_step)
        seeds = prompt_seeds(draw_seed(self._seed, step, 0, 0), sampling, self._per_step)
        self._outstanding.append(asked)

        def sampled(_: int, group: Group) -> None:
            scores = self._rewards.start(group)
            with self._changed:
                asked.group, asked.scores = group, scores
            scores.add_done_callback(self._wake)

        [asked.number] = self._fleet.submit([asked.prompt], sampling, [seeds[place]], sampled)

    def _wake(self, _: Future[list[list[Score]]]) -> None:
        with self._changed:
            self._changed.notify_all()

    def take(self, version: int) -> tuple[list[Group], list[Group]] | None:
        """The groups of a step, scored, the oldest first, once the rule of staleness allows it; None for now.

        Raises:
            RewardError: too many of the last responses have no reward.

        Returns:
            Those that were replaced since the last step, and those to train on.
        """
        outstanding = [Outstanding(one.born, one.ready) for one in self._outstanding]
        places = batch(outstanding, version, self._per_step, self._max_staleness, self._bound)
        if places is None:
            return None
        taken = [self._outstanding[place] for place in places]
        self._outstanding = [one for one in self._outstanding if one not in taken]
        counted, replaced, self._replaced = self._replaced + taken, len(self._replaced), []
        groups = [replace(one.group, born=one.born) for one in counted if one.group is not None]
        columns = [one.scores.result() for one in counted if one.scores is not None]
        scored = self._rewards.finish(groups, columns)
        return scored[:replaced], scored[replaced:]

    def replace_those_without_signal(self, most: int) -> None:
        """Let finished groups whose rewards do not differ give their places back, at most so many a step."""
        for one in [one for one in self._outstanding if one.ready]:
            if len(self._replaced) >= most or one.group is None or one.scores is None:
                return
            if not has_signal(self._rewards.scored(one.group, one.scores.result())):
                self._outstanding.remove(one)
                self._replaced.append(one)

    def drop(self) -> int:
        """Forget what is on its way; returns how many groups these were."""
        dropped, self._outstanding = self._outstanding, []
        self._fleet.cancel([one.number for one in dropped])
        return len(dropped)

    def fleet_metrics(self) -> dict[str, float]:
        """What the engines did since the last call; what happened to them, since the run began."""
        now, counts = time.monotonic(), replace(self._fleet.counts)
        seconds = max(now - self._looked, 1e-9)
        busy, tokens = counts.busy_s - self._before.busy_s, counts.sampled_tokens - self._before.sampled_tokens
        self._looked, self._before = now, counts
        return {
            "fleet/busy": busy / seconds / len(self._fleet.places),
            "fleet/tokens_per_s": tokens / seconds,
            "fleet/live": float(sum(place.live for place in self._fleet.places)),
            "fleet/deaths": float(counts.deaths),
            "fleet/resumed": float(counts.resumed),
            "fleet/kept_tokens": float(counts.kept_tokens),
        }

    def wait(self) -> None:
        """Until something has finished, or for a moment.

        Raises:
            Exception: what has ended the fleet.
        """
        self._fleet.check()
        with self._changed:
            self._changed.wait(LOOK_S)

    def state_dict(self) -> dict[str, Any]:
        """The draws so far, and the prompts that were asked for and not taken; fit for JSON."""
        waiting = [{"prompt": key(one.prompt), "draw": one.draw, "tokens": one.tokens} for one in self._outstanding]
        return {"drawn": self._drawn, "waiting": waiting}

    def load_state_dict(
        self, state: Mapping[str, Any], prompts: Mapping[str, Prompt], version: int, sampling: Sampling
    ) -> None:
        """Ask anew for what was on its way when `state_dict` was called.

        Args:
            state: of then.
            prompts: all there are, by `key`.
            version: number of finished training steps.
            sampling: of now, but for the budget.
        """
        self._drawn = state["drawn"]
        for one in state["waiting"]:
            asked = Asked(prompts[one["prompt"]], one["draw"], version, one["tokens"])
            self._submit(asked, replace(sampling, max_response_tokens=one["tokens"]))


def key(prompt: Prompt) -> str:
    """Tells a prompt from all others of a run."""
    return f"{prompt.id} {hashlib.sha256(prompt.text.encode()).hexdigest()[:16]}"


def gap_by_age(
    groups: Sequence[Group], batch: Batch, old_logprobs: Mapping[int, Sequence[float]], version: int
) -> dict[str, float]:
    """Mean distance of the engines' log-probabilities from the trainer's, in nats, by how old the token's policy is.

    Args:
        groups: of this rank, that the step trained on.
        batch: its rows.
        old_logprobs: by row, of the policy as the step began.
        version: of that policy.
    """
    spans = {(i, one.token_ids): one.spans for i, group in enumerate(groups) for one in group.responses}
    sums: dict[int, list[float]] = {}
    for index, old in old_logprobs.items():
        row = batch.rows[index]
        gaps = np.abs(np.subtract(old, row.rollout_logprobs))
        end = 0
        for span in spans[row.group, row.response_ids]:
            part = gaps[end : end + span.tokens]
            total = sums.setdefault(version - span.version, [0.0, 0.0])
            total[0], total[1], end = total[0] + float(part.sum()), total[1] + len(part), end + span.tokens
    return {f"logprob_gap/age_{age}": total / count for age, (total, count) in sorted(sums.items())}


def staleness_metrics(groups: Sequence[Group], version: int) -> dict[str, float]:
    """How old the responses of a step are, in finished steps: by response since it was asked for, and by token.

    Args:
        groups: that the step trains on.
        version: of the policy that it trains.
    """
    ages = [version - group.born for group in groups for _ in group.responses]
    spans = [span for group in groups for one in group.responses for span in one.spans]
    tokens = sum(span.tokens for span in spans)
    metrics = {"staleness/response_mean": float(np.mean(ages)), "staleness/response_max": float(max(ages))}
    if tokens:
        by_age: dict[int, int] = {}
        for span in spans:
            by_age[version - span.version] = by_age.get(version - span.version, 0) + span.tokens
        metrics |= {"staleness/token_mean": sum(age * count for age, count in by_age.items()) / tokens}
        metrics |= {"staleness/token_max": float(max(by_age))}
        metrics |= {f"staleness/tokens_{age}": count / tokens for age, count in sorted(by_age.items())}
    return metrics
