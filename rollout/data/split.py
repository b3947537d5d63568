"""Training problems and held-out problems, which share none."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from evolpo import InputError
from evolpo.rollout.data.config import DataConfig
from evolpo.rollout.data.problem import Problem, normalise
from evolpo.rollout.sources import Note, load_problems

logger = logging.getLogger(__name__)


def split_heldout(config: DataConfig, seed: int, note: Note = logger.info) -> tuple[list[Problem], list[Problem]]:
    """Load all problems as (train, heldout), which share no problem.

    With held-out sources, what occurs in both is removed from training. Without, `heldout_size` problems are drawn from
    training, each source giving its share of them. `config.seed` goes before `seed`, that of the run.

    Args:
        config: the sources.
        seed: of the run.
        note: gets the lines that a user should see once: how sources were read, and what was dropped.

    Raises:
        InputError: a source is unusable, or the split leaves nothing to train on.
    """
    seed = config.split_seed(seed)
    train = load_problems(config.train, "data.train", seed, note)
    if config.heldout:
        heldout = load_problems(config.heldout, "data.heldout", seed, note)
    else:
        heldout = _draw_heldout(train, config.heldout_size, seed)
    reserved = {normalise(problem.text) for problem in heldout}
    kept = [problem for problem in train if normalise(problem.text) not in reserved]
    removed = len(train) - len(kept) - (0 if config.heldout else len(heldout))
    overlap = f", {removed} removed from training: their text is held out" if removed else ", none shared"
    note(f"{len(kept)} problems to train on, {len(heldout)} held out{overlap}")
    if not kept:
        raise InputError(_all_held_out(config, len(train), len(reserved)))
    check_disjoint(kept, heldout)
    return kept, heldout


def _all_held_out(config: DataConfig, count: int, texts: int) -> str:
    if config.heldout:
        return f"data.heldout: holds the text of all {count} training problems; add other problems to data.train"
    if texts < count:
        return (
            f"data.heldout_size: all {count} training problems would be held out, because they have only {texts} "
            f"different text{'s' * (texts > 1)}; set 0, or add problems with other texts"
        )
    return f"data.heldout_size: all {count} training problems would be held out; hold out fewer or add sources"


def load_heldout(config: DataConfig, seed: int, note: Note = logger.info) -> list[Problem]:
    """The held-out problems alone, the same as those of `split_heldout`; held-out sources need no training ones.

    Raises:
        InputError: a source is unusable, or there is none.
    """
    if config.heldout:
        return load_problems(config.heldout, "data.heldout", config.split_seed(seed), note)
    if not config.train:
        raise InputError(
            "data.heldout: has no source, nor has data.train; add one, e.g. {kind: file, path: test.jsonl}"
        )
    return split_heldout(config, seed, note)[1]


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
        what = "the only problem" if len(train) == 1 else f"{size} of {len(train)} problems"
        message = f"holding out {what} leaves none to train on; set at most {len(train) - 1}, or add problems"
        raise InputError(f"data.heldout_size: {message}")
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
