"""Memory of a card in both phases as lines for people, and what to change where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from evolpo.recipes.memory.mends import FIELDS, smallest_change
from evolpo.recipes.memory.needs import WEIGHT, Setting, cached_share, card_needs
from evolpo.recipes.memory.passes import passes_of
from evolpo.recipes.memory.sizes import Sizes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def card_lines(model: PreTrainedConfig, sizes: Sizes, setting: Setting, memory: float, cache: float) -> Iterator[str]:
    """What a card of `memory` bytes holds while the engine samples and while the trainer trains.

    Args:
        model: its configuration.
        sizes: its sizes.
        setting: how it is laid out.
        memory: bytes of a card.
        cache: bytes of the key-value cache; 0 takes what is left.
    """
    bytes_of = passes_of(model)
    token = cached_share(sizes, setting) * WEIGHT["bf16"]
    longest = setting.work.prompt_tokens + setting.work.response_tokens

    def fits(changed: Setting) -> bool:
        needs = card_needs(sizes, changed, bytes_of(changed))
        least = max(cache, longest * token)
        return sum(needs.rollout.values()) + least <= memory and sum(needs.training.values()) <= memory

    needs = card_needs(sizes, setting, bytes_of(setting))
    left = cache or max(memory - sum(needs.rollout.values()), 0.0)
    rollout = needs.rollout | {"key-value cache": left}
    yield _described(setting)
    yield f"{'memory a card, GB':<20}{'rollout':>10}{'training':>10}"
    yield from _table(rollout, needs.training)
    yield _verdict("rollout", sum(needs.rollout.values()) + max(cache, longest * token), memory)
    yield _verdict("training", sum(needs.training.values()), memory)
    if needs.machine:
        yield f"{'machine':<20}{needs.machine / 1e9:,.1f} GB of its memory for what is offloaded, over all cards"
    if left >= longest * token:
        count = left / token
        sharing = f" in the engine of {setting.tensor_parallel} cards" if setting.tensor_parallel > 1 else ""
        yield f"{'cache':<20}{count:,.0f} tokens, {count / longest:,.0f} responses of the longest kind at once{sharing}"
    if not fits(setting):
        change = smallest_change(setting, fits, longest, FIELDS)
        what = " ".join(change) if change is not None else "none up to 64 cards; take a smaller model"
        yield f"{'smallest change':<20}{what}"


def _described(setting: Setting) -> str:
    words = [f"ZeRO-{setting.zero_stage}", f"micro-batches of {setting.work.tokens} tokens"]
    words += ["activations recomputed"] if setting.checkpointing else []
    words += [f"offload {setting.offload}"] if setting.offload != "none" else []
    words += [f"engines of {setting.tensor_parallel} cards"] if setting.tensor_parallel > 1 else []
    words += [f"adapters of rank {setting.lora_rank}"] if setting.lora_rank else []
    return ", ".join(words)


def _table(rollout: Mapping[str, float], training: Mapping[str, float]) -> Iterator[str]:
    for name in dict.fromkeys((*rollout, *training)):
        cells = (f"{phase[name] / 1e9:,.1f}" if name in phase else "" for phase in (rollout, training))
        yield f"  {name:<18}" + "".join(f"{cell:>10}" for cell in cells)


def _verdict(phase: str, needed: float, memory: float) -> str:
    fits = "fits" if needed <= memory else "does not fit"
    return f"{phase:<20}{needed / 1e9:,.1f} of {memory / 1e9:,.0f} GB at the least: {fits}"
