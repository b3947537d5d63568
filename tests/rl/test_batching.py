"""Micro-batches hold every wanted row once, keep the budget, and can be read back."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolpo.rl.batching import SPREAD, collate, make_micro_batches
from evolpo.rl.data import Row

CPU = torch.device("cpu")


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


def line_length(rows, packs):
    """Tokens of a micro-batch, the prompt of a pack once."""
    return sum(len(rows[pack[0]].prompt_ids) + sum(len(rows[i].response_ids) for i in pack) for pack in packs)


def row_lengths(rows, packs):
    return [len(rows[i].prompt_ids) + len(rows[i].response_ids) for pack in packs for i in pack]


@given(case=rows_and_wanted(), budget=BUDGETS)
def test_every_wanted_row_comes_exactly_once(case, budget):
    rows, wanted = case
    batches = make_micro_batches(rows, wanted, budget)
    assert sorted(i for batch in batches for pack in batch for i in pack) == sorted(wanted)
    assert all(pack for batch in batches for pack in batch)


@given(case=rows_and_wanted(), budget=BUDGETS)
def test_sizes_keep_the_budget_or_one_row_stands_alone(case, budget):
    rows, wanted = case
    for batch in make_micro_batches(rows, wanted, budget):
        lengths = row_lengths(rows, batch)
        within = line_length(rows, batch) <= budget and len(lengths) * max(lengths) <= SPREAD * budget
        assert within or len(lengths) == 1


@given(case=rows_and_wanted(), budget=BUDGETS)
def test_packs_share_a_prompt_and_a_group_and_a_batch_has_each_once(case, budget):
    rows, wanted = case
    for batch in make_micro_batches(rows, wanted, budget):
        keys = [{(rows[i].group, rows[i].prompt_ids) for i in pack} for pack in batch]
        assert all(len(key) == 1 for key in keys)
        assert len(set().union(*keys)) == len(batch)


@given(case=rows_and_wanted(), budget=BUDGETS)
def test_the_longest_row_comes_first(case, budget):
    rows, wanted = case
    lengths = [length for batch in make_micro_batches(rows, wanted, budget) for length in row_lengths(rows, batch)]
    assert lengths[:1] == [max(lengths)] if lengths else not wanted


@given(case=rows_and_wanted(), budget=BUDGETS)
def test_the_cut_does_not_depend_on_the_order_of_what_is_wanted(case, budget):
    rows, wanted = case
    assert make_micro_batches(rows, wanted, budget) == make_micro_batches(rows, wanted[::-1], budget)


@settings(max_examples=60)
@given(rows=row_lists(), budget=st.integers(1, 300))
def test_the_layout_can_be_inverted(rows, budget):
    for packs in make_micro_batches(rows, range(len(rows)), budget):
        batch = collate(rows, packs, CPU)
        line, positions = batch.input_ids[0], batch.position_ids[0]
        assert len(line) == line_length(rows, packs)
        assert list(batch.rows) == [i for pack in packs for i in pack]
        targets = batch.unflatten(batch.targets)
        for place, index in enumerate(batch.rows):
            row, inside = rows[index], batch.mask[place]
            whole = row.prompt_ids + row.response_ids
            spread = batch.layout.places[place]
            assert tuple(line[spread[: len(whole)]].tolist()) == whole
            assert positions[spread[: len(whole)]].tolist() == list(range(len(whole)))
            size = len(row.response_ids)
            assert inside.tolist() == [True] * size + [False] * (len(inside) - size)
            assert tuple(targets[place, inside].tolist()) == row.response_ids
            assert tuple(batch.units[place, inside].tolist()) == row.units
            assert tuple(batch.rollout_logprobs[place, inside].tolist()) == row.rollout_logprobs
            assert batch.advantages[place].item() == row.advantage
            assert (targets[place, ~inside] == 0).all()


@settings(max_examples=60)
@given(rows=row_lists(), budget=st.integers(1, 300))
def test_the_line_is_found_again_in_the_rows(rows, budget):
    for packs in make_micro_batches(rows, range(len(rows)), budget):
        batch = collate(rows, packs, CPU)
        assert batch.layout.places.flatten()[batch.layout.first].tolist() == list(range(batch.input_ids.shape[1]))
        for share, pack in zip(batch.layout.shares, packs, strict=True):
            begin, end = share.start, share.start + share.length
            assert tuple(batch.input_ids[0, begin:end].tolist()) == rows[pack[0]].prompt_ids
            assert list(batch.rows[share.rows]) == pack


@settings(max_examples=60)
@given(rows=row_lists(), budget=st.integers(1, 300))
def test_every_token_is_predicted_by_the_one_before_it(rows, budget):
    for packs in make_micro_batches(rows, range(len(rows)), budget):
        batch = collate(rows, packs, CPU)
        predicting = batch.input_ids[0, batch.predicting].tolist()
        before = [t for i in batch.rows for t in (rows[i].prompt_ids[-1], *rows[i].response_ids[:-1])]
        assert predicting == before


def test_batches_worked_by_hand():
    """Rows of 11, 6, 5 and 2 tokens in a budget of 12: the first alone, two of 6 and 5, and the last by itself."""
    rows = [Row(g, (1,), (2,) * n, (0,) * n, 1.0, (0.0,) * n) for g, n in enumerate((5, 10, 1, 4))]
    assert make_micro_batches(rows, range(4), 12) == [[[1]], [[0], [3]], [[2]]]


def test_a_prompt_counts_once_in_a_batch_and_again_in_the_next():
    """A prompt of 10 and responses of 4, 3, 2: 17 tokens, then 12; with a budget of 16, one response each."""
    rows = [Row(0, (1,) * 10, (2,) * n, (0,) * n, 1.0, (0.0,) * n) for n in (2, 4, 3)]
    assert make_micro_batches(rows, range(3), 19) == [[[1, 2, 0]]]
    assert make_micro_batches(rows, range(3), 17) == [[[1, 2]], [[0]]]
    assert make_micro_batches(rows, range(3), 16) == [[[1]], [[2, 0]]]


def test_long_prompts_with_many_short_responses_keep_the_places_of_attention_bounded():
    """A prompt of 90 and responses of 1: the line takes 10 in a budget of 100, attention 400 / 91 = 4."""
    rows = [Row(0, (1,) * 90, (2,), (0,), 1.0, (0.0,)) for _ in range(10)]
    assert [len(batch[0]) for batch in make_micro_batches(rows, range(10), 100)] == [4, 4, 2]
