"""Packed attention against attention with an explicit mask, values and gradients, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evolpo.model.attention import causal_attention, packed_attention
from evolpo.rl.batching import collate
from evolpo.rl.data import Row

CPU = torch.device("cpu")


def make_batch(shapes):
    """A micro-batch from [(prompt length, [response lengths])]."""
    rows, packs = [], []
    for group, (prompt, responses) in enumerate(shapes):
        packs.append([len(rows) + k for k in range(len(responses))])
        rows += [Row(group, (1,) * prompt, (2,) * n, (0,) * n, 1.0, (0.0,) * n) for n in responses]
    return collate(rows, packs, CPU)


def explicit_mask(shapes):
    """[N, N]: a token sees its own past and its prompt."""
    owner = []
    for group, (prompt, responses) in enumerate(shapes):
        owner += [(group, 0)] * prompt
        for k, n in enumerate(responses, 1):
            owner += [(group, k)] * n
    return torch.tensor(
        [[j <= i and a[0] == b[0] and b[1] in (0, a[1]) for j, b in enumerate(owner)] for i, a in enumerate(owner)]
    )


def plain(query, key, value, mask, scaling):
    """Softmax attention written out, in the same layout [1, heads, N, D]."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


SHAPES = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(1, 7), min_size=1, max_size=4)), min_size=1, max_size=3
)


@settings(max_examples=40, deadline=None)
@given(shapes=SHAPES, heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]), seed=st.integers(0, 99))
def test_values_and_gradients_equal_attention_with_a_mask(shapes, heads, seed):
    generator = torch.Generator().manual_seed(seed)
    layout, mask = make_batch(shapes).layout, explicit_mask(shapes)
    size = mask.shape[0]
    inputs = [
        torch.randn(1, h, size, 8, generator=generator, dtype=torch.float64) for h in (heads[0], heads[1], heads[1])
    ]
    upstream = torch.randn(1, size, heads[0], 8, generator=generator, dtype=torch.float64)
    results = []
    for attend in (
        lambda q, k, v: packed_attention(nn.Module(), q, k, v, None, layout=layout, scaling=0.3)[0],
        lambda q, k, v: plain(q, k, v, mask, 0.3),
    ):
        leaves = [x.clone().requires_grad_() for x in inputs]
        output = attend(*leaves)
        (output * upstream).sum().backward()
        results.append([output.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_every_tensor_of_attention_is_as_small_as_rows_without_shared_prompts():
    layout = make_batch([(5, [3, 3]), (2, [4])]).layout
    assert layout.places.shape == (3, 8)
    assert len(layout.first) == 5 + 3 + 3 + 2 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sliding_window": 4}, "a window of 4 tokens that its mask does not show"),
        ({"dropout": 0.1}, "dropout or position biases"),
        ({"position_bias": torch.ones(1)}, "dropout or position biases"),
        ({"attention_mask": torch.ones(1, 1, 8, 8)}, "a mask of its own"),
    ],
)
def test_what_attention_here_cannot_do_is_refused(options, message):
    layout = make_batch([(5, [3])]).layout
    query = torch.randn(1, 1, 8, 4)
    arguments = {"attention_mask": None} | options
    with pytest.raises(ValueError, match=message):
        packed_attention(nn.Module(), query, query, query, layout=layout, **arguments)


def test_a_window_that_no_row_reaches_changes_nothing():
    layout = make_batch([(5, [3])]).layout
    query = torch.randn(1, 1, 8, 4)
    wide, _ = packed_attention(nn.Module(), query, query, query, None, layout=layout, sliding_window=8)
    assert torch.equal(wide, packed_attention(nn.Module(), query, query, query, None, layout=layout)[0])


@pytest.mark.parametrize("heads", [(9, 3), (4, 4), (2, 1)])
def test_bfloat16_on_a_cpu_is_as_exact_as_the_kernel(heads):
    """The output is the kernel's; gradients are off by less than 1%, the kernel's own by more than half of that."""
    generator = torch.Generator().manual_seed(0)

    def draw(count):
        return (1.3 * torch.randn(3, count, 70, 32, generator=generator)).bfloat16()

    inputs, upstream = [draw(heads[0]), draw(heads[1]), draw(heads[1])], draw(heads[0])

    def run(attend, dtype):
        leaves = [x.detach().clone().to(dtype).requires_grad_() for x in inputs]
        output = attend(*leaves)
        output.backward(upstream.to(dtype))
        return output.detach(), [leaf.grad for leaf in leaves]

    def kernel(query, key, value):
        attention = nn.functional.scaled_dot_product_attention
        return attention(query, key, value, is_causal=True, enable_gqa=heads[0] != heads[1])

    output, ours = run(lambda *given: causal_attention(*given, None), torch.bfloat16)
    same, theirs = run(kernel, torch.bfloat16)
    _, exact = run(kernel, torch.float32)
    assert torch.equal(output, same)

    def error(found, wanted):
        return ((found.float() - wanted).norm() / wanted.norm()).item()

    for mine, its, wanted in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        assert error(mine, wanted) < min(0.01, 3 * error(its, wanted))
