"""Micro-batches: rows of one prompt and some of its responses, longest first, inside a token budget.

A micro-batch is one line of tokens without padding: packs of one prompt followed by some of its responses, whose
positions all restart after the prompt. The prompt is thus computed once for them; `evolpo.model.attention` lets every
response see the prompt and itself alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evolpo.model.attention import Layout, Share
from evolpo.rl.data import Row

SPREAD = 4
"""Attention sees every response behind a copy of its prompt, padded; these places may be so many times the budget."""


@dataclass(frozen=True)
class MicroBatch:
    """Tensors of B responses of up to T tokens (M tokens in all), laid out in a line of N tokens with their prompts."""

    rows: tuple[int, ...]
    """Index of each of the B responses in the list of rows that was batched."""
    input_ids: Tensor  # [1, N]
    position_ids: Tensor  # [1, N]
    layout: Layout
    """How attention spreads the line into B rows, each a prompt and one response."""
    predicting: Tensor  # [M] place in the line of the token that predicts each response token
    targets: Tensor  # [M]
    mask: Tensor  # [B, T] bool
    units: Tensor  # [B, T]
    advantages: Tensor  # [B]
    rollout_logprobs: Tensor  # [B, T]

    def unflatten(self, values: Tensor) -> Tensor:
        """Put values [M] of the response tokens in their places in [B, T], zero elsewhere."""
        return values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)


def make_micro_batches(rows: Sequence[Row], wanted: Sequence[int], budget: int) -> list[list[list[int]]]:
    """Cut the rows `wanted` (indices) into micro-batches: lists of packs, each of responses to one prompt.

    A micro-batch has at most `budget` tokens, every prompt in it counted once, and at most `SPREAD` times as many
    places for attention; a single row beyond that gets a micro-batch of its own. Order: the longest first, so that a
    run that does not fit into memory fails at once.
    """
    groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for index in sorted(wanted, key=lambda i: (-len(rows[i].response_ids), i)):
        groups.setdefault((rows[index].group, rows[index].prompt_ids), []).append(index)

    def length(index: int) -> int:
        return len(rows[index].prompt_ids) + len(rows[index].response_ids)

    batches: list[list[list[int]]] = []
    tokens = count = longest = 0
    for members in sorted(groups.values(), key=lambda members: (-length(members[0]), members[0])):
        pack: list[int] = []
        for index in members:
            added = len(rows[index].response_ids) if pack else length(index)
            longest = max(longest, length(index))
            if not batches or tokens + added > budget or (count + 1) * longest > SPREAD * budget:
                batches.append([])
                tokens, count, added, longest, pack = 0, 0, length(index), length(index), []
            if not pack:
                batches[-1].append(pack)
            pack.append(index)
            tokens, count = tokens + added, count + 1
    return batches


def collate(rows: Sequence[Row], packs: Sequence[Sequence[int]], device: torch.device) -> MicroBatch:
    """Lay packs of rows out as tensors."""
    order = [index for pack in packs for index in pack]
    width = max(len(rows[i].prompt_ids) + len(rows[i].response_ids) for i in order)
    input_ids: list[int] = []
    positions: list[int] = []
    predicting: list[Tensor] = []
    places: list[Tensor] = []
    first: list[Tensor] = []
    shares: list[Share] = []
    for pack in packs:
        prompt = rows[pack[0]].prompt_ids
        begin, size = len(input_ids), len(prompt)
        shares.append(Share(begin, size, slice(len(places), len(places) + len(pack))))
        first.append(len(places) * width + torch.arange(size))
        input_ids += prompt
        positions += range(size)
        for index in pack:
            response = rows[index].response_ids
            start, length = len(input_ids), len(response)
            own = torch.arange(start, start + length)
            # the first token of every response is predicted by the prompt's last
            predicting.append(torch.cat([torch.tensor([begin + size - 1]), own[:-1]]))
            first.append(len(places) * width + torch.arange(size, size + length))
            padding = torch.full((width - size - length,), start + length - 1)
            places.append(torch.cat([torch.arange(begin, begin + size), own, padding]))
            input_ids += response
            positions += range(size, size + length)

    lengths = torch.tensor([len(rows[i].response_ids) for i in order])
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    targets = torch.tensor([token for i in order for token in rows[i].response_ids])

    def spread(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
        flat = torch.tensor(values, dtype=dtype)
        return torch.zeros(mask.shape, dtype=dtype).masked_scatter(mask, flat)

    return MicroBatch(
        rows=tuple(order),
        input_ids=torch.tensor([input_ids]).to(device),
        position_ids=torch.tensor([positions]).to(device),
        layout=Layout(torch.stack(places), torch.cat(first), tuple(shares)).to(device),
        predicting=torch.cat(predicting).to(device),
        targets=targets.to(device),
        mask=mask.to(device),
        units=spread([unit for i in order for unit in rows[i].units], torch.long).to(device),
        advantages=torch.tensor([rows[i].advantage for i in order], dtype=torch.float32).to(device),
        rollout_logprobs=spread([x for i in order for x in rows[i].rollout_logprobs], torch.float32).to(device),
    )
