"""From problems to an endless stream of prompts: held-out split, chat template, shuffling, mixing, exact resume."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from evolpo import InputError
from evolpo.rl.data import Prompt
from evolpo.rollout.sources import Problem, SourceConfig, check_source, load_problems, normalise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "INSTANT_MODE",
    "DataConfig",
    "Problem",
    "PromptStream",
    "SourceConfig",
    "chat_tokens",
    "check_disjoint",
    "encode_problems",
    "encode_prompt",
    "load_problems",
    "split_heldout",
    "user_message",
]

logger = logging.getLogger(__name__)

INSTANT_MODE = "detailed think off"
BOXED = "Put the final answer in \\boxed{}."


@dataclass
class DataConfig:
    """The problems to train on, those held out, and how a problem becomes a prompt."""

    train: list[SourceConfig] = field(default_factory=list)
    """Sources of the training problems; at least one."""
    heldout: list[SourceConfig] = field(default_factory=list)
    """Sources of the held-out problems; if empty, `heldout_size` problems are taken out of `train`."""
    heldout_size: int = 300
    """How many problems to take out of `train`, from each source in proportion to its size."""
    system_prompt: str = INSTANT_MODE
    """System message of every prompt; empty for none."""
    instruction: str = BOXED
    """Appended to every problem on a line of its own; empty for none."""
    max_prompt_tokens: int = 512
    """Longer prompts are dropped, counted and logged."""
    seed: int | None = None
    """Seed of generated problems and of the held-out split; empty: the run's. Give it to compare seeds on one split."""

    def __post_init__(self) -> None:
        for name in ("train", "heldout"):
            for index, source in enumerate(getattr(self, name)):
                check_source(source, f"data.{name}[{index}]")
        if self.heldout_size < 0:
            raise InputError(f"data.heldout_size: {self.heldout_size} is negative; give 0 or more problems")
        if self.seed is not None and self.seed < 0:
            raise InputError(f"data.seed: {self.seed} is negative; give 0 or more, or leave it empty for the run's")
        if self.max_prompt_tokens < 1:
            raise InputError(f"data.max_prompt_tokens: {self.max_prompt_tokens} leaves no prompt; give at least 1")

    def split_seed(self, run: int) -> int:
        """Seed of generated problems and of the held-out split in a run with this seed."""
        return run if self.seed is None else self.seed


def split_heldout(config: DataConfig, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Load all problems as (train, heldout), which share no problem.

    With held-out sources, what occurs in both is removed from training. Without, `heldout_size` problems are drawn from
    training, each source giving its share of them. `config.seed` goes before `seed`, that of the run.

    Raises:
        InputError: a source is unusable, or the split leaves nothing to train on.
    """
    seed = config.split_seed(seed)
    train = load_problems(config.train, "data.train", seed)
    if config.heldout:
        heldout = load_problems(config.heldout, "data.heldout", seed)
    else:
        heldout = _draw_heldout(train, config.heldout_size, seed)
    reserved = {normalise(problem.text) for problem in heldout}
    kept = [problem for problem in train if normalise(problem.text) not in reserved]
    removed = len(train) - len(kept)
    logger.info("data: %d to train on, %d held out, %d removed from training", len(kept), len(heldout), removed)
    if not kept:
        name = "data.heldout" if config.heldout else "data.heldout_size"
        raise InputError(f"{name}: all {len(train)} training problems would be held out; hold out fewer or add sources")
    check_disjoint(kept, heldout)
    return kept, heldout


def check_disjoint(train: Sequence[Problem], heldout: Sequence[Problem]) -> None:
    """Raise InputError with the count if any held-out text, white space aside, is also trained on."""
    shared = {normalise(problem.text) for problem in train} & {normalise(problem.text) for problem in heldout}
    if shared:
        example = min(shared)[:80]
        message = f"shares {len(shared)} problems with data.train, e.g. {example!r}; remove them from one of the two"
        raise InputError(f"data.heldout: {message}")


def _draw_heldout(train: Sequence[Problem], size: int, seed: int) -> list[Problem]:
    """Draw `size` problems, each source's part in proportion to its size (largest remainder)."""
    if size >= len(train):
        raise InputError(f"data.heldout_size: {size} of {len(train)} problems leaves none to train on; lower it")
    by_source = _group_by_source(train)
    quotas = {source: size * len(part) / len(train) for source, part in by_source.items()}
    counts = {source: int(quota) for source, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda source: counts[source] - quotas[source])
    for source in by_remainder[: size - sum(counts.values())]:
        counts[source] += 1
    heldout: list[Problem] = []
    for source, part in by_source.items():
        order = np.random.default_rng([seed, source]).permutation(len(part))
        heldout += [part[i] for i in sorted(order[: counts[source]])]
    return heldout


def _group_by_source(problems: Sequence[Problem]) -> dict[int, list[Problem]]:
    grouped: dict[int, list[Problem]] = {}
    for problem in problems:
        grouped.setdefault(problem.source, []).append(problem)
    return dict(sorted(grouped.items()))


def user_message(text: str, instruction: str) -> str:
    """What the user says: the problem, then the instruction on a line of its own."""
    return f"{text}\n{instruction}" if instruction else text


def chat_tokens(tokenizer: PreTrainedTokenizerBase, system: str, user: str) -> tuple[int, ...]:
    """Token ids of a system and a user message, ready for the response.

    A tokenizer with a chat template uses it. One without gets `SYSTEM\\n\\nUser: USER\\n\\nAssistant:`, with the
    special tokens it adds to any text (such as the beginning of sequence). An empty `system` is left out in both.

    Raises:
        InputError: the chat template refuses a system message.
    """
    if not tokenizer.chat_template:
        opening = f"{system}\n\n" if system else ""
        return tuple(tokenizer(f"{opening}User: {user}\n\nAssistant:")["input_ids"])
    from jinja2 import TemplateError

    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise InputError(
            f'data.system_prompt: the chat template of the tokenizer refuses it ({error}); use "" for none'
        ) from error
    # The template has written the special tokens itself.
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_prompt(problem: Problem, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> Prompt:
    """The problem inside the chat template; the length is not checked."""
    token_ids = chat_tokens(tokenizer, config.system_prompt, user_message(problem.text, config.instruction))
    return Prompt(problem.id, problem.text, token_ids, problem.answer, problem.difficulty, problem.metadata)


def encode_problems(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, config: DataConfig
) -> list[tuple[Problem, Prompt]]:
    """Encode all problems; those over `max_prompt_tokens` are dropped, and the drops are logged.

    Raises:
        InputError: not one problem fits.
    """
    pairs = [(problem, encode_prompt(problem, tokenizer, config)) for problem in problems]
    kept = [pair for pair in pairs if len(pair[1].token_ids) <= config.max_prompt_tokens]
    limit = config.max_prompt_tokens
    if pairs and not kept:
        shortest = min(len(prompt.token_ids) for _, prompt in pairs)
        raise InputError(
            f"data.max_prompt_tokens: all {len(pairs)} prompts are longer than {limit} tokens; set at least {shortest}"
        )
    if len(kept) < len(pairs):
        logger.warning("%d of %d prompts dropped: over %d tokens", len(pairs) - len(kept), len(pairs), limit)
    return kept


class PromptStream:
    """Endless prompts: each source shuffled anew every epoch, sources mixed by weight.

    The whole sequence is a function of problems, weights and seed, and the number of prompts drawn from each source
    says where in it one is; that is all the state there is. Draw n comes from the source that is furthest below its
    share of the first n draws, so shares are kept exactly, and small sources start their next epoch sooner. A `take`
    that crosses the end of an epoch may hold a problem twice.
    """

    def __init__(
        self, problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, config: DataConfig, seed: int
    ) -> None:
        """Encode the problems.

        Args:
            problems: from `split_heldout` or a selection of them; `source` indexes `config.train`, whose weights count.
            tokenizer: any Hugging Face tokenizer.
            config: how a problem becomes a prompt.
            seed: of the shuffle, not negative.

        Raises:
            InputError: there is no problem, or none is short enough.
        """
        if not problems:
            raise InputError("data.train: no problem is left to train on; add sources or widen the selection")
        self._seed = seed
        self._prompts: dict[int, list[Prompt]] = {}
        for problem, prompt in encode_problems(problems, tokenizer, config):
            self._prompts.setdefault(problem.source, []).append(prompt)
        self.dropped = len(problems) - len(self)
        """How many prompts were over `max_prompt_tokens`."""
        total = sum(config.train[source].weight for source in self._prompts)
        self._shares = {source: config.train[source].weight / total for source in sorted(self._prompts)}
        self._difficulties = {source: prompts[0].difficulty for source, prompts in self._prompts.items()}
        self._mix: dict[int, float] = self._shares
        self._drawn = dict.fromkeys(self._shares, 0)
        self._before = dict(self._drawn)
        """Prompts drawn from each source before the present mix began."""
        self._orders: dict[int, tuple[int, Sequence[int]]] = {}

    def __len__(self) -> int:
        """Number of distinct prompts."""
        return sum(map(len, self._prompts.values()))

    @property
    def drawn(self) -> int:
        """Prompts drawn so far, by all ranks together."""
        return sum(self._drawn.values())

    @property
    def epochs(self) -> dict[int, float]:
        """By source: how many times it has been gone through, fractions included."""
        return {source: count / len(self._prompts[source]) for source, count in self._drawn.items()}

    def mix(self, shares: Mapping[str, float]) -> None:
        """From now on take prompts in these shares of difficulty; without any, in those of the configuration.

        Sources of one difficulty keep their proportions. Calling it again with the same shares changes nothing.

        Raises:
            ValueError: no prompt is of a difficulty with a share above 0.
        """
        weights = {
            source: share * (shares.get(self._difficulties[source], 0.0) if shares else 1.0)
            for source, share in self._shares.items()
        }
        if shares:  # a difficulty's share is that of its sources together
            for difficulty in set(self._difficulties.values()):
                own = [source for source in weights if self._difficulties[source] == difficulty]
                whole = sum(self._shares[source] for source in own)
                weights |= {source: weights[source] / whole for source in own}
        total = sum(weights.values())
        if total <= 0:
            raise ValueError(f"no prompt is of a difficulty in {dict(shares)}")
        mix = {source: weight / total for source, weight in weights.items()}
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
        """The place in the stream, fit for JSON: prompts drawn by source, and what the stream is made of."""
        mix = {str(source): share for source, share in self._mix.items()}
        drawn, before = ({str(source): n for source, n in counts.items()} for counts in (self._drawn, self._before))
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
        self._drawn = {int(source): count for source, count in state["drawn"].items()}
        self._before = {int(source): count for source, count in state["before"].items()}
        self._mix = {int(source): share for source, share in state["mix"].items()}

    def _next(self) -> Prompt:
        since = {source: count - self._before[source] for source, count in self._drawn.items()}
        number = sum(since.values()) + 1
        source = max(self._mix, key=lambda s: self._mix[s] * number - since[s])
        prompts = self._prompts[source]
        epoch, position = divmod(self._drawn[source], len(prompts))
        self._drawn[source] += 1
        return prompts[self._order(source, epoch)[position]]

    def _order(self, source: int, epoch: int) -> Sequence[int]:
        """The permutation of a source in an epoch; only the latest is kept."""
        cached = self._orders.get(source)
        if cached is None or cached[0] != epoch:
            generator = np.random.default_rng([self._seed, source, epoch])
            cached = (epoch, generator.permutation(len(self._prompts[source])).tolist())
            self._orders[source] = cached
        return cached[1]

    def _made_of(self) -> str:
        """Fingerprint of all that the sequence depends on, besides the place in it."""
        digest = hashlib.sha256(repr((self._seed, self._shares)).encode())
        for source in self._shares:
            digest.update("".join(prompt.id for prompt in self._prompts[source]).encode())
        return digest.hexdigest()[:16]
