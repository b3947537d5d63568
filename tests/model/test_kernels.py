"""Attention with windows, soft caps and sinks against a version that goes token by token, in values and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.masking_utils import chunked_causal_mask_function, sliding_window_causal_mask_function

from evolpo.model import kernels
from evolpo.model.kernels import Visibility, causal_attention, general_attention

CPU = torch.device("cpu")


def slow_attention(query, key, value, scale, sees, cap=None, sinks=None):
    """One query of one head of one row after the other; `sees(q, k)` says which keys it has."""
    rows, heads, length, _ = query.shape
    group = heads // key.shape[1]
    output = torch.zeros(*query.shape[:3], value.shape[3], dtype=query.dtype)
    for row in range(rows):
        for head in range(heads):
            for q in range(length):
                keys = [k for k in range(length) if sees(q, k)]
                scores = [scale * torch.dot(query[row, head, q], key[row, head // group, k]) for k in keys]
                scores = [cap * torch.tanh(s / cap) if cap else s for s in scores]
                weights = [s.exp() for s in scores]
                total = sum(weights) + (sinks[head].exp() if sinks is not None else 0.0)
                for weight, k in zip(weights, keys, strict=True):
                    output[row, head, q] = output[row, head, q] + weight / total * value[row, head // group, k]
    return output


def leaves(*tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 9),
    window=st.integers(1, 10),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2)]),
    cap=st.sampled_from([None, 0.5, 30.0]),
    with_sinks=st.booleans(),
    block=st.sampled_from([1, 2, 100]),
    sizes=st.sampled_from([(4, 4), (6, 2), (2, 6)]),
    seed=st.integers(0, 999),
)
def test_blocks_equal_attention_token_by_token(length, window, heads, cap, with_sinks, block, sizes, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    inputs = [
        draw(2, heads[0], length, sizes[0]),
        draw(2, heads[1], length, sizes[0]),
        draw(2, heads[1], length, sizes[1]),
    ]
    inputs += [draw(heads[0])] if with_sinks else []
    upstream = draw(2, heads[0], length, sizes[1])
    table = Visibility(sliding_window_causal_mask_function(window)).table(length, CPU)
    assert (table is None) == (window >= length)
    ours, theirs = leaves(*inputs), leaves(*inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "SMALLEST_BLOCK", block)
        patch.setattr(kernels, "BLOCK_SCORES", 1)
        output = general_attention(*ours[:3], 0.7, table, cap, *ours[3:])
    expected = slow_attention(*theirs[:3], 0.7, lambda q, k: q - window < k <= q, cap, *theirs[3:])
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    (output * upstream).sum().backward()
    (expected * upstream).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(6, 4), (4, 4)])
def test_values_may_have_smaller_heads(dtype, sizes):
    """As in multi-head latent attention."""
    inputs = [torch.randn(2, 4, 7, sizes[0]), torch.randn(2, 2, 7, sizes[0]), torch.randn(2, 2, 7, sizes[1])]
    ours, theirs = leaves(*(x.to(dtype) for x in inputs)), leaves(*inputs)
    output, expected = causal_attention(*ours, None), general_attention(*theirs, None)
    assert output.shape == (2, 4, 7, sizes[1])
    output.sum().backward()
    expected.sum().backward()
    room = {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(output.float(), expected, rtol=room, atol=room)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad.dtype == dtype
        torch.testing.assert_close(mine.grad.float(), other.grad, rtol=room, atol=2 * room)


def test_bfloat16_scores_are_not_rounded():
    """A soft cap of 50 leaves scores of tens, whose last bit in bfloat16 is worth an eighth."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (5 * torch.randn(1, 1, 40, 32, generator=generator).bfloat16() for _ in range(3))
    exact = general_attention(query.double().float(), key.float(), value.float(), 1.0, None, 50.0)
    found = general_attention(query, key, value, 1.0, None, 50.0)
    assert found.dtype == torch.bfloat16
    assert ((found.float() - exact).norm() / exact.norm()).item() < 0.01


def test_what_a_row_sees_comes_from_the_rule_of_the_model():
    table = Visibility(sliding_window_causal_mask_function(2)).table(4, CPU)
    assert table.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    chunks = Visibility(chunked_causal_mask_function(2, torch.zeros(1, dtype=torch.long))).table(4, CPU)
    assert chunks.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert Visibility(lambda b, h, q, k: k <= q).table(4, CPU) is None


def test_models_that_look_ahead_are_refused():
    with pytest.raises(ValueError, match="later tokens"):
        Visibility(lambda b, h, q, k: (k <= q) | (k == 0) | (q == 0)).table(3, CPU)


def test_memory_is_that_of_a_block():
    assert math.prod((4, 8, kernels.SMALLEST_BLOCK, 16_384)) <= kernels.BLOCK_SCORES
