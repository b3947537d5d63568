"""Micro-batches: rows of one prompt and some of its responses, sorted by length, inside a token budget.

A pack is one prompt followed by k of its responses, laid out as one sequence in which every response sees the prompt
and itself alone; positions restart after the prompt. The prompt is thus computed once for k responses. Attention inside
a pack costs its squared length, so k is chosen where the sum of both costs is lowest; with k = 1 a pack is an ordinary
sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evolpo.rl.data import Row


@dataclass(frozen=True)
class MicroBatch:
    """Tensors of B responses of up to T tokens (N tokens in all), laid out in R packs of up to L tokens."""

    rows: tuple[int, ...]
    """Index of each of the B responses in the list of rows that was batched."""
    input_ids: Tensor  # [R, L]
    position_ids: Tensor  # [R, L]
    attention_mask: Tensor | None  # [R, 1, L, L] bool, True: may attend; None: plain causal
    predicting: Tensor  # [N], index into the flattened [R * L] of the position that predicts each response token
    targets: Tensor  # [N]
    mask: Tensor  # [B, T] bool
    units: Tensor  # [B, T]
    advantages: Tensor  # [B]
    rollout_logprobs: Tensor  # [B, T]

    def unflatten(self, values: Tensor) -> Tensor:
        """Put values [N] of the response tokens in their places in [B, T], zero elsewhere."""
        return values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)


def pack_size(prompt: int, response: float, attention_cost: float, budget: int, most: int) -> int:
    """How many responses of one prompt to lay out behind it.

    The cost of a pack of k is tokens + attention_cost * tokens^2 with tokens = prompt + k * response; the k with the
    lowest cost a response is taken.

    Args:
        prompt: prompt length in tokens.
        response: mean response length in tokens.
        attention_cost: cost of one query-key pair, in units of one token's cost in the linear layers.
        budget: most tokens in a pack.
        most: responses there are.
    """

    def cost(k: int) -> float:
        tokens = prompt + k * response
        return (tokens + attention_cost * tokens * tokens) / k

    fitting = [k for k in range(1, most + 1) if prompt + k * response <= budget] or [1]
    return min(fitting, key=cost)


def make_packs(rows: Sequence[Row], wanted: Sequence[int], budget: int, attention_cost: float) -> list[list[int]]:
    """Cut the rows `wanted` (indices) into packs of responses to the same prompt, similar in length."""
    groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for index in wanted:
        groups.setdefault((rows[index].group, rows[index].prompt_ids), []).append(index)
    packs: list[list[int]] = []
    for (_, prompt), members in groups.items():
        members.sort(key=lambda i: (len(rows[i].response_ids), i))
        mean = sum(len(rows[i].response_ids) for i in members) / len(members)
        size = pack_size(len(prompt), mean, attention_cost, budget, len(members))
        pieces = -(-len(members) // size)
        packs += [members[len(members) * p // pieces : len(members) * (p + 1) // pieces] for p in range(pieces)]
    return packs


def pack_length(rows: Sequence[Row], pack: Sequence[int]) -> int:
    """Tokens of a pack: its prompt once, and its responses."""
    return len(rows[pack[0]].prompt_ids) + sum(len(rows[i].response_ids) for i in pack)


def make_micro_batches(
    rows: Sequence[Row], wanted: Sequence[int], budget: int, attention_cost: float
) -> list[list[list[int]]]:
    """Cut the rows `wanted` into micro-batches: lists of packs whose padded size is at most `budget` tokens.

    A single pack longer than the budget gets a micro-batch of its own. Order: longest first, so that a run that does
    not fit into memory fails at once.
    """
    packs = make_packs(rows, wanted, budget, attention_cost)
    packs.sort(key=lambda pack: (-pack_length(rows, pack), pack))
    batches: list[list[list[int]]] = []
    for pack in packs:
        longest = pack_length(rows, batches[-1][0]) if batches else 0
        if batches and longest * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(pack)
        else:
            batches.append([pack])
    return batches


def collate(rows: Sequence[Row], packs: Sequence[Sequence[int]], device: torch.device) -> MicroBatch:
    """Lay packs of rows out as tensors."""
    order = [index for pack in packs for index in pack]
    length = max(pack_length(rows, pack) for pack in packs)
    shape = (len(packs), length)
    input_ids, position_ids = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    segments = torch.full(shape, -1)  # 0: prompt, 1..k: responses, -1: padding
    predicting: list[Tensor] = []
    for r, pack in enumerate(packs):
        prompt = rows[pack[0]].prompt_ids
        start = len(prompt)
        input_ids[r, :start] = torch.tensor(prompt)
        position_ids[r, :start] = torch.arange(start)
        segments[r, :start] = 0
        for k, index in enumerate(pack, 1):
            response = rows[index].response_ids
            end = start + len(response)
            input_ids[r, start:end] = torch.tensor(response)
            position_ids[r, start:end] = torch.arange(len(prompt), len(prompt) + len(response))
            segments[r, start:end] = k
            where = torch.arange(start - 1, end - 1)
            where[0] = len(prompt) - 1  # the first token of every response is predicted by the prompt's last
            predicting.append(where + r * length)
            start = end

    lengths = torch.tensor([len(rows[i].response_ids) for i in order])
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    targets = torch.tensor([token for i in order for token in rows[i].response_ids])

    def spread(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
        flat = torch.tensor(values, dtype=dtype)
        return torch.zeros(mask.shape, dtype=dtype).masked_scatter(mask, flat)

    return MicroBatch(
        rows=tuple(order),
        input_ids=input_ids.to(device),
        position_ids=position_ids.to(device),
        attention_mask=None if all(len(pack) == 1 for pack in packs) else _pack_mask(segments).to(device),
        predicting=torch.cat(predicting).to(device),
        targets=targets.to(device),
        mask=mask.to(device),
        units=spread([unit for i in order for unit in rows[i].units], torch.long).to(device),
        advantages=torch.tensor([rows[i].advantage for i in order], dtype=torch.float32).to(device),
        rollout_logprobs=spread([x for i in order for x in rows[i].rollout_logprobs], torch.float32).to(device),
    )


def _pack_mask(segments: Tensor) -> Tensor:
    """[R, L] segment ids -> [R, 1, L, L] bool: causal, inside the own segment or to the prompt."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    return (causal & ((query == key) | (key == 0))).unsqueeze(1)
