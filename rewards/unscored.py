"""Responses that got no reward: counted over the last ones, written to a file, and when there are too many."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolpo.rewards.values import Score
from evolpo.rl.data import Group

WINDOW = 1000
"""Responses over which the share is taken: the last ones."""
FLOOR = 8
"""As many unscored ones in the window are never too many, unless nothing could be scored or none is allowed."""


class RewardError(RuntimeError):
    """Too many responses could not be scored for the run to be trusted."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one component left a response without a reward."""

    component: str
    use: str
    whole_group: bool
    """Whether the component judges all responses to a prompt together."""
    score: Score

    @property
    def reason(self) -> str:
        """Status and error."""
        if self.score.status == "skipped":
            return "skipped: no component has anything to say about this response"
        return f"{self.score.status}: {self.score.error}"


class UnscoredResponses:
    """What has become of the last responses, and the file of those that failed."""

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self._window: deque[tuple[Failure, ...]] = deque(maxlen=WINDOW)
        self.file: Path | None = None
        """JSONL to add failed responses to, as `evolpo score` reads them; None for none."""
        self.last = ""
        """What is to be said of the last step: empty if all its responses have a reward."""
        self.failed: list[Failure] = []
        """Of each response of the last step without a reward, the first reason."""
        self._groups_written = 0

    def add(self, groups: Sequence[Group], failures: Sequence[Sequence[Failure]]) -> None:
        """Note the responses of a step.

        Args:
            groups: scored.
            failures: of each response of the groups, in their order; empty for a response with a reward.

        Raises:
            RewardError: too many of the last responses have no reward.
        """
        self._window.extend(map(tuple, failures))
        self.failed = failed = [one[0] for one in failures if one]
        self.last = ""
        if failed:
            where = f"; they are in {self.file}" if self.file is not None else ""
            first = f"{failed[0].component}: {failed[0].reason}"
            self.last = f"{len(failed)} of {len(failures)} responses have no reward ({first}){where}"
        if self.file is not None:
            self._write(self.file, groups, failures)
        unscored = [one for one in self._window if one]
        allowed = max(self._max_share * len(self._window), FLOOR if self._max_share else 0)
        nothing_works = self._max_share < 1 and all(any(f.score.unscored for f in one) for one in self._window)
        if unscored and (len(unscored) > allowed or nothing_works):
            counts = Counter(failure.component for one in unscored for failure in one)
            reasons = {failure.component: failure.reason for one in reversed(unscored) for failure in one}
            parts = [f"{name} failed on {count} (first {reasons[name]})" for name, count in counts.most_common()]
            written = f"; they are in {self.file}" if self.file is not None else ""
            raise RewardError(
                f"{len(unscored)} of the last {len(self._window)} responses have no reward, more than "
                f"rewards.max_unscored={self._max_share:g} allows: {'; '.join(parts)}{written}"
            )

    def _write(self, path: Path, groups: Sequence[Group], failures: Sequence[Sequence[Failure]]) -> None:
        """Add the failed responses to the file, those of a failed group with their siblings."""
        lines = []
        start = 0
        for group in groups:
            own = failures[start : start + len(group.responses)]
            start += len(group.responses)
            if not any(own):
                continue
            together = any(failure.whole_group for one in own for failure in one)
            for index, one in enumerate(own):
                if one or together:
                    lines.append(_row(group, index, one, f"{group.prompt.id} {self._groups_written}"))
            self._groups_written += 1
        if lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(line, default=str) + "\n" for line in lines))


def _row(group: Group, index: int, failures: Sequence[Failure], name: str) -> Mapping[str, Any]:
    response = group.responses[index]
    return {
        "prompt": group.prompt.text,
        "response": response.text,
        "answer": group.prompt.answer,
        "difficulty": group.prompt.difficulty,
        "metadata": dict(group.prompt.metadata),
        "group": name,
        "token_ids": list(response.token_ids),
        "truncated": response.truncated,
        "failures": [{"component": one.component, "use": one.use, "reason": one.reason} for one in failures],
    }
