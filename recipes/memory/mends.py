"""The smallest change of a run that lets it fit.

Changes are ranked by what they cost, and the cheapest set that fits is named:

1. `tokens_per_micro_batch` down to the longest row: the same result, and hardly slower while a pass fills the card;
2. `save_background=false`: the same result; a step with a checkpoint waits for the disk;
3. ZeRO stage 2, then 3: the same result; gradients are reduced with every micro-batch, weights gathered in every pass;
4. `offload=rollout`: the same result; optimizer states cross the bus twice a step;
5. `activation_checkpointing`: the same result; a third more computing in training;
6. `offload=always`: the same result; they cross it with every optimizer step, or the processor does that step;
7. adapters: something else is trained, with another learning rate;
8. more cards: money.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace

from evolpo.recipes.memory.needs import Setting
from evolpo.rl.training.config import OFFLOADS

LORA_RANK = 16
"""Rank of the adapters that are proposed."""
MOST_CARDS = 64
"""No more cards are proposed."""
FIELDS = frozenset(
    (
        *("tokens_per_micro_batch", "zero_stage", "offload", "activation_checkpointing", "save_background"),
        *("lora_rank", "cluster.gpus"),
    )
)
"""Names of all fields that a change may be of."""


@dataclass(frozen=True)
class Change:
    """One field in another way."""

    words: str
    """As an override."""
    cost: int
    apply: Callable[[Setting], Setting]


def smallest_change(
    setting: Setting, fits: Callable[[Setting], bool], longest: int, offered: Container[str]
) -> tuple[str, ...] | None:
    """Overrides that let a run fit, the cheapest set; None if none does.

    Args:
        setting: what does not fit.
        fits: whether another one does.
        longest: tokens of the longest prompt with its response.
        offered: names of fields that may be changed.
    """
    choices = [
        [Change("", 0, lambda s: s), *(one for one in field if one.words.partition("=")[0] in offered)]
        for field in _choices(setting, longest)
    ]
    sets = sorted(itertools.product(*choices), key=lambda picked: sum(one.cost for one in picked))
    for picked in sets:
        changed = setting
        for one in picked:
            changed = one.apply(changed)
        if fits(changed):
            return tuple(one.words for one in picked if one.words)
    return None


def _choices(setting: Setting, longest: int) -> Iterator[Sequence[Change]]:
    """By field: what it may be changed to."""
    tokens = [Change(f"tokens_per_micro_batch={longest}", 1, lambda s: s.with_tokens(longest))]
    yield tokens if longest < setting.work.tokens else []
    yield [Change("save_background=false", 2, lambda s: replace(s, background=False))] if setting.background else []
    last = 2 if setting.expert_parallel > 1 else 3
    yield [_stage(stage) for stage in range(setting.zero_stage + 1, last + 1)]
    yield [_offload(name) for name in OFFLOADS[OFFLOADS.index(setting.offload) + 1 :]]
    recompute = Change("activation_checkpointing=true", 6, lambda s: replace(s, checkpointing=True))
    yield [] if setting.checkpointing else [recompute]
    adapters = Change(f"lora_rank={LORA_RANK}", 40, lambda s: replace(s, lora_rank=LORA_RANK))
    yield [] if setting.lora_rank or setting.expert_parallel > 1 else [adapters]
    doubled = itertools.takewhile(lambda n: n <= MOST_CARDS, (setting.ranks << i for i in range(1, 10)))
    yield [_cards(count, place) for place, count in enumerate(doubled)]


def _stage(stage: int) -> Change:
    return Change(f"zero_stage={stage}", {1: 1, 2: 2, 3: 7}[stage], lambda s: replace(s, zero_stage=stage))


def _offload(name: str) -> Change:
    return Change(f"offload={name}", {"rollout": 4, "always": 12}[name], lambda s: replace(s, offload=name))


def _cards(count: int, place: int) -> Change:
    return Change(f"cluster.gpus={count}", 100 << place, lambda s: replace(s, ranks=count))
