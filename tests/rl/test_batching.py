"""Micro-batches hold every wanted row once, keep the budget, and can be read back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolpo.rl.batching import collate, make_micro_batches, make_packs, pack_length, pack_size
from evolpo.rl.data import Row

CPU = torch.device("cpu")
ATTENTION_COST = 1 / (6 * 576)


@st.composite
def row_lists(draw):
    """Rows of up to five groups; every token is drawn, so that a wrong place shows."""
    token = st.integers(1, 999)
    prompts = draw(st.lists(st.lists(token, min_size=1, max_size=12).map(tuple), min_size=1, max_size=5))
    rows = []
    for group, prompt in enumerate(prompts):
        for _ in range(draw(st.integers(1, 5))):
            response = draw(st.lists(token, min_size=1, max_size=20).map(tuple))
            size = len(response)
            starts = draw(st.lists(st.booleans(), min_size=size, max_size=size))
            units = tuple(sum(starts[1 : t + 1]) for t in range(size))
            logprobs = tuple(-float(draw(st.integers(1, 64))) / 8 for _ in range(size))
            rows.append(Row(group, prompt, response, units, draw(st.integers(-8, 8)) / 4, logprobs))
    order = draw(st.permutations(range(len(rows))))
    return [rows[i] for i in order]


@st.composite
def rows_and_wanted(draw):
    rows = draw(row_lists())
    return rows, draw(st.lists(st.sampled_from(range(len(rows))), unique=True))


BUDGETS = st.integers(1, 200)
COSTS = st.sampled_from([0.0, ATTENTION_COST, 0.01, 1.0])


@given(case=rows_and_wanted(), budget=BUDGETS, cost=COSTS)
def test_every_wanted_row_comes_exactly_once(case, budget, cost):
    rows, wanted = case
    batches = make_micro_batches(rows, wanted, budget, cost)
    assert sorted(i for batch in batches for pack in batch for i in pack) == sorted(wanted)
    assert all(pack for batch in batches for pack in batch)


@given(case=rows_and_wanted(), budget=BUDGETS, cost=COSTS)
def test_padded_sizes_keep_the_budget_or_one_pack_stands_alone(case, budget, cost):
    rows, wanted = case
    for batch in make_micro_batches(rows, wanted, budget, cost):
        longest = max(pack_length(rows, pack) for pack in batch)
        assert longest * len(batch) <= budget or len(batch) == 1


@given(case=rows_and_wanted(), budget=BUDGETS, cost=COSTS)
def test_packs_share_a_prompt_and_a_group(case, budget, cost):
    rows, wanted = case
    for pack in make_packs(rows, wanted, budget, cost):
        assert len({(rows[i].group, rows[i].prompt_ids) for i in pack}) == 1


@given(case=rows_and_wanted(), budget=BUDGETS)
def test_the_longest_pack_comes_first(case, budget):
    rows, wanted = case
    lengths = [pack_length(rows, pack) for batch in make_micro_batches(rows, wanted, budget, 0.0) for pack in batch]
    assert lengths == sorted(lengths, reverse=True)


@given(case=rows_and_wanted(), budget=BUDGETS, cost=COSTS)
def test_the_cut_does_not_depend_on_the_order_of_what_is_wanted(case, budget, cost):
    rows, wanted = case

    def as_sets(batches):
        return [{tuple(pack) for pack in batch} for batch in batches]

    forward = make_micro_batches(rows, wanted, budget, cost)
    assert as_sets(forward) == as_sets(make_micro_batches(rows, wanted[::-1], budget, cost))


def read_back(batch, packs, rows):
    """Prompts and responses as the model sees them: the keys each response's last token attends to, in order."""
    read = {}
    places = iter(range(len(batch.rows)))
    for r, pack in enumerate(packs):
        end = len(rows[pack[0]].prompt_ids)
        for index in pack:
            end += len(rows[index].response_ids)
            if batch.attention_mask is None:
                seen = torch.arange(end)
            else:
                seen = batch.attention_mask[r, 0, end - 1].nonzero().squeeze(1)
            positions = batch.position_ids[r, seen].tolist()
            assert batch.rows[next(places)] == index
            read[index] = (tuple(batch.input_ids[r, seen].tolist()), positions)
    return read


@settings(max_examples=60)
@given(rows=row_lists(), budget=st.integers(1, 300), cost=COSTS)
def test_the_layout_can_be_inverted(rows, budget, cost):
    for packs in make_micro_batches(rows, range(len(rows)), budget, cost):
        batch = collate(rows, packs, CPU)
        for index, (tokens, positions) in read_back(batch, packs, rows).items():
            assert tokens == rows[index].prompt_ids + rows[index].response_ids
            assert positions == list(range(len(tokens)))
        targets = batch.unflatten(batch.targets)
        for place, index in enumerate(batch.rows):
            row, inside = rows[index], batch.mask[place]
            size = len(row.response_ids)
            assert inside.tolist() == [True] * size + [False] * (len(inside) - size)
            assert tuple(targets[place, inside].tolist()) == row.response_ids
            assert tuple(batch.units[place, inside].tolist()) == row.units
            assert tuple(batch.rollout_logprobs[place, inside].tolist()) == row.rollout_logprobs
            assert batch.advantages[place].item() == row.advantage
            assert (targets[place, ~inside] == 0).all()


@settings(max_examples=60)
@given(rows=row_lists(), budget=st.integers(1, 300))
def test_every_token_is_predicted_by_the_one_before_it(rows, budget):
    for packs in make_micro_batches(rows, range(len(rows)), budget, 0.0):
        batch = collate(rows, packs, CPU)
        predicting = batch.input_ids.flatten()[batch.predicting].tolist()
        before = [t for i in batch.rows for t in (rows[i].prompt_ids[-1], *rows[i].response_ids[:-1])]
        assert predicting == before


@settings(max_examples=30)
@given(rows=row_lists())
def test_a_token_sees_its_own_past_and_the_prompt_alone(rows):
    packs = make_packs(rows, range(len(rows)), 10_000, 0.0)
    batch = collate(rows, packs, CPU)
    if batch.attention_mask is None:
        assert all(len(pack) == 1 for pack in packs)
        return
    for r, pack in enumerate(packs):
        prompt = len(rows[pack[0]].prompt_ids)
        owner = [0] * prompt + [k for k, i in enumerate(pack, 1) for _ in rows[i].response_ids]
        for query, own in enumerate(owner):
            expected = [key for key in range(query + 1) if owner[key] in (0, own)]
            assert batch.attention_mask[r, 0, query, : len(owner)].nonzero().squeeze(1).tolist() == expected


def test_packs_of_one_need_no_mask():
    row = Row(0, (1, 2), (3,), (0,), 1.0, (0.0,))
    assert collate([row, row], [[0], [1]], CPU).attention_mask is None
    assert collate([row, row], [[0, 1]], CPU).attention_mask is not None


@pytest.mark.parametrize(
    ("prompt", "response", "cost", "budget", "most", "expected"),
    [
        (100, 10, 0.0, 10_000, 8, 8),  # attention is free: share the prompt with all
        (100, 10, 0.0, 130, 8, 3),  # 100 + 3 * 10 fill the budget
        (100, 10, 0.0, 109, 8, 1),  # nothing fits: one response all the same
        (100, 10, 0.0, 50, 8, 1),
        (1, 50, 1.0, 10_000, 8, 1),  # attention is dear, the prompt short: a pack costs more than it saves
        (100, 100, 0.01, 10_000, 8, 1),  # 2 responses: (300 + 900) / 2 = 600, as dear as one alone at 600; the smaller
        (100, 50, 0.01, 10_000, 8, 3),  # 1: 375; 2: (200 + 400) / 2 = 300; 3: (250 + 625) / 3 = 291.7; 4: 300
    ],
)
def test_pack_sizes_worked_by_hand(prompt, response, cost, budget, most, expected):
    assert pack_size(prompt, response, cost, budget, most) == expected


@given(
    prompt=st.integers(1, 500),
    response=st.floats(1, 500),
    cost=st.floats(0, 0.1),
    budget=st.integers(1, 5000),
    most=st.integers(1, 16),
)
def test_pack_sizes_are_possible_and_cheapest(prompt, response, cost, budget, most):
    size = pack_size(prompt, response, cost, budget, most)
    assert 1 <= size <= most
    assert size == 1 or prompt + size * response <= budget

    def per_response(k):
        tokens = prompt + k * response
        return (tokens + cost * tokens**2) / k

    fitting = [k for k in range(1, most + 1) if prompt + k * response <= budget]
    assert all(per_response(size) <= per_response(k) * (1 + 1e-12) for k in fitting)


def test_packs_of_a_group_are_even_and_sorted_by_length():
    rows = [Row(0, (1,) * 100, (2,) * n, (0,) * n, 1.0, (0.0,) * n) for n in (9, 1, 8, 2, 7, 3, 6)]
    packs = make_packs(rows, range(7), 120, 0.0)  # mean 36 / 7 tokens: three fit
    assert packs == [[1, 3], [5, 6], [4, 2, 0]]


def test_batches_worked_by_hand():
    """Lengths 11, 6, 5, 2 in a budget of 12: the first alone, two of 6, and the last by itself."""
    rows = [Row(g, (1,), (2,) * n, (0,) * n, 1.0, (0.0,) * n) for g, n in enumerate((5, 10, 1, 4))]
    assert make_micro_batches(rows, range(4), 12, 0.0) == [[[1]], [[0], [3]], [[2]]]
