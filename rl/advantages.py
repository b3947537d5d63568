"""Group-relative advantages: how much better a response is than its siblings.

Every estimator maps the rewards of one group [G] to advantages [G]. Rewards that could not be scored (None) take no
part in the baseline and get no advantage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from evolpo.rl.data import Group

EPS = 1e-6
"""Added to the standard deviation (our choice; the Ling 2.0 report leaves it open)."""


def _mean(rewards: Sequence[float]) -> float:
    return math.fsum(rewards) / len(rewards)


def _sample_std(rewards: Sequence[float]) -> float:
    mean = _mean(rewards)
    return math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))


def standardised(rewards: Sequence[float]) -> list[float]:
    """(R_i - mean) / (std + 1e-6), sample standard deviation. GRPO (arXiv 2402.03300) section 4.1.2; LPO."""
    mean, std = _mean(rewards), _sample_std(rewards)
    return [(r - mean) / (std + EPS) for r in rewards]


def centred(rewards: Sequence[float]) -> list[float]:
    """R_i - mean: no division by the standard deviation. Dr.GRPO (arXiv 2503.20783) section 3.2."""
    mean = _mean(rewards)
    return [r - mean for r in rewards]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """R_i - mean of the others. RLOO (arXiv 2402.14740) eq. 6."""
    total, others = math.fsum(rewards), len(rewards) - 1
    return [r - (total - r) / others for r in rewards]


ADVANTAGES: Mapping[str, Callable[[Sequence[float]], list[float]]] = {
    "group": standardised,
    "group_no_std": centred,
    "leave_one_out": leave_one_out,
    "dr_grpo": centred,
}
"""Estimators by name. `dr_grpo` is `group_no_std` under the name of the paper that argued for it."""


def advantages_of(rewards: Sequence[float | None], estimator: str) -> list[float | None]:
    """Advantages of one group; None where the reward is None, 0.0 everywhere if the rewards do not differ.

    Raises:
        KeyError: unknown estimator.
    """
    known = [r for r in rewards if r is not None]
    if len(known) < 2 or max(known) == min(known):
        return [None if r is None else 0.0 for r in rewards]
    values = iter(ADVANTAGES[estimator](known))
    return [None if r is None else next(values) for r in rewards]


def group_advantages(groups: Sequence[Group], estimator: str) -> list[list[float | None]]:
    """Advantages of every response of every scored group, in the order of the groups."""
    return [advantages_of(group.rewards, estimator) for group in groups]


def has_signal(group: Group) -> bool:
    """Whether the scored responses of a group differ in reward, so that some advantage is not zero."""
    known = {r for r in group.rewards if r is not None}
    return len(known) > 1
