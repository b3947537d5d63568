"""The endless stream of prompts: shuffling, mixing by source and level, exact resume."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evolpo import InputError
from evolpo.rl.data import Prompt
from evolpo.rollout.data.chat import chat_tokens, encode_problems, encode_prompt, prompt_of, user_message
from evolpo.rollout.data.config import BOXED, INSTANT_MODE, DataConfig
from evolpo.rollout.data.split import check_disjoint, load_heldout, split_heldout
from evolpo.rollout.sources import Note, Problem, SourceConfig, load_problems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "BOXED",
    "INSTANT_MODE",
    "DataConfig",
    "Problem",
    "PromptStream",
    "SourceConfig",
    "chat_tokens",
    "check_disjoint",
    "encode_problems",
    "encode_prompt",
    "load_heldout",
    "load_problems",
    "prompt_of",
    "split_heldout",
    "user_message",
]

logger = logging.getLogger(__name__)

Pool = int | str
"""Prompts that are shuffled together: those of a source, or of one level of a source that has several."""


class PromptStream:
    """Endless prompts: each pool shuffled anew every epoch, pools mixed by weight.

    A pool is a source; one whose rows are of several difficulty levels is a pool a level, which share its weight by
    their sizes. The whole sequence is a function of problems, weights and seed, and the number of prompts drawn from
    each pool says where in it one is; that is all the state there is. Draw n comes from the pool that is furthest below
    its share of the first n draws, so shares are kept exactly, and small sources start their next epoch sooner. A
    `take` that crosses the end of an epoch may hold a problem twice.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        tokenizer: PreTrainedTokenizerBase,
        config: DataConfig,
        seed: int,
        note: Note = logger.warning,
    ) -> None:
        """Encode the problems.

        Args:
            problems: from `split_heldout` or a selection of them; `source` indexes `config.train`, whose weights count.
            tokenizer: any Hugging Face tokenizer.
            config: how a problem becomes a prompt.
            seed: of the shuffle, not negative.
            note: gets the line that says how many prompts were too long.

        Raises:
            InputError: there is no problem, or none is short enough.
        """
        if not problems:
            raise InputError("data.train: no problem is left to train on; add sources or widen the selection")
        self._seed = seed
        by_source: dict[int, dict[str, list[Prompt]]] = {}
        for problem, prompt in encode_problems(problems, tokenizer, config, note):
            by_source.setdefault(problem.source, {}).setdefault(problem.difficulty, []).append(prompt)
        total = sum(config.train[source].weight for source in by_source)
        self._prompts: dict[Pool, list[Prompt]] = {}
        self._shares: dict[Pool, float] = {}
        self._paths: dict[Pool, tuple[int, ...]] = {}
        """Of each pool: what its shuffles are seeded with beside the seed and the epoch."""
        for source in sorted(by_source):
            levels = by_source[source]
            share, size = config.train[source].weight / total, sum(map(len, levels.values()))
            for number, (level, prompts) in enumerate(levels.items()):
                pool: Pool = source if len(levels) == 1 else f"{source}/{level}"
                self._prompts[pool] = prompts
                self._shares[pool] = share if len(levels) == 1 else share * len(prompts) / size
                self._paths[pool] = (source, number) if number else (source,)
        self.dropped = len(problems) - len(self)
        """How many prompts were over `max_prompt_tokens`."""
        self._difficulties = {pool: prompts[0].difficulty for pool, prompts in self._prompts.items()}
        self._mix: dict[Pool, float] = self._shares
        self._drawn = dict.fromkeys(self._shares, 0)
        self._before = dict(self._drawn)
        """Prompts drawn from each pool before the present mix began."""
        self._orders: dict[Pool, tuple[int, Sequence[int]]] = {}

    def __len__(self) -> int:
        """Number of distinct prompts."""
        return sum(map(len, self._prompts.values()))

    @property
    def prompts(self) -> list[Prompt]:
        """All distinct prompts, pool by pool."""
        return [prompt for prompts in self._prompts.values() for prompt in prompts]

    @property
    def drawn(self) -> int:
        """Prompts drawn so far, by all ranks together."""
        return sum(self._drawn.values())

    @property
    def epochs(self) -> dict[int, float]:
        """By source: how many times it has been gone through, fractions included."""
        drawn: dict[int, int] = {}
        sizes: dict[int, int] = {}
        for pool, prompts in self._prompts.items():
            source = self._paths[pool][0]
            drawn[source] = drawn.get(source, 0) + self._drawn[pool]
            sizes[source] = sizes.get(source, 0) + len(prompts)
        return {source: count / sizes[source] for source, count in drawn.items()}

    def mix(self, shares: Mapping[str, float]) -> None:
        """From now on take prompts in these shares of difficulty; without any, in those of the configuration.

        Pools of one difficulty keep their proportions. Calling it again with the same shares changes nothing.

        Raises:
            ValueError: no prompt is of a difficulty with a share above 0.
        """
        weights = {
            pool: share * (shares.get(self._difficulties[pool], 0.0) if shares else 1.0)
            for pool, share in self._shares.items()
        }
        if shares:  # a difficulty's share is that of its pools together
            for difficulty in set(self._difficulties.values()):
                own = [pool for pool in weights if self._difficulties[pool] == difficulty]
                whole = sum(self._shares[pool] for pool in own)
                weights |= {pool: weights[pool] / whole for pool in own}
        total = sum(weights.values())
        if total <= 0:
            raise ValueError(f"no prompt is of a difficulty in {dict(shares)}")
        mix = {pool: weight / total for pool, weight in weights.items()}
        if mix != self._mix:
            self._mix, self._before = mix, dict(self._drawn)

    def take(self, n: int, rank: int = 0, world: int = 1) -> list[Prompt]:
        """The next n prompts; with several ranks, this rank's contiguous slice of n / world of them.

        Every rank must call with the same n: each one moves over all n prompts, so all stay at the same place.

        Raises:
            ValueError: n is not divisible by world.
        """
        if n % world:
            raise ValueError(f"{n} prompts cannot be divided among {world} ranks; take a multiple of {world}")
        drawn = [self._next() for _ in range(n)]
        share = n // world
        return drawn[rank * share : (rank + 1) * share]

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream, fit for JSON: prompts drawn by pool, and what the stream is made of."""
        mix = {str(pool): share for pool, share in self._mix.items()}
        drawn, before = ({str(pool): n for pool, n in counts.items()} for counts in (self._drawn, self._before))
        return {"drawn": drawn, "before": before, "mix": mix, "made_of": self._made_of()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was called.

        Raises:
            InputError: the state belongs to other problems, weights or another seed.
        """
        if state["made_of"] != self._made_of():
            raise InputError(
                "data.train: the checkpoint was made with other problems, weights or another seed; "
                "resume with the configuration of the checkpoint or start a new run"
            )
        self._drawn = {pool: state["drawn"][str(pool)] for pool in self._prompts}
        self._before = {pool: state["before"][str(pool)] for pool in self._prompts}
        self._mix = {pool: state["mix"][str(pool)] for pool in self._prompts}

    def _next(self) -> Prompt:
        since = {pool: count - self._before[pool] for pool, count in self._drawn.items()}
        number = sum(since.values()) + 1
        chosen = max(self._mix, key=lambda pool: self._mix[pool] * number - since[pool])
        prompts = self._prompts[chosen]
        epoch, position = divmod(self._drawn[chosen], len(prompts))
        self._drawn[chosen] += 1
        return prompts[self._order(chosen, epoch)[position]]

    def _order(self, pool: Pool, epoch: int) -> Sequence[int]:
        """The permutation of a pool in an epoch; only the latest is kept."""
        cached = self._orders.get(pool)
        if cached is None or cached[0] != epoch:
            source, *level = self._paths[pool]
            generator = np.random.default_rng([self._seed, source, epoch, *level])
            cached = (epoch, generator.permutation(len(self._prompts[pool])).tolist())
            self._orders[pool] = cached
        return cached[1]

    def _made_of(self) -> str:
        """Fingerprint of all that the sequence depends on, besides the place in it."""
        digest = hashlib.sha256(repr((self._seed, self._shares)).encode())
        for pool in self._shares:
            digest.update("".join(prompt.id for prompt in self._prompts[pool]).encode())
        return digest.hexdigest()[:16]
