"""CISPO against its formula, written as a plain loop in float64; by hand; and beside the clipped surrogate.

Options, denominators, corrections and garbage outside the mask are tested for every loss in `test_losses.py`.
"""

import inspect
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolpo.rl import cispo
from evolpo.rl.losses import LOSSES

GUIDE = Path(__file__).parents[2] / "docs" / "new-algorithm.md"


def loss_and_gradient(name, logprobs, old, advantages, mask, **options):
    logprobs = logprobs.clone().requires_grad_()
    loss, metrics = LOSSES[name](logprobs, old, advantages, mask, torch.zeros_like(mask, dtype=torch.long), **options)
    loss.backward()
    return loss.item(), logprobs.grad, metrics


def plain_loop(logprobs, old, advantages, mask, clip_high):
    """Value and gradient of - sum sg(min(r, 1 + clip_high)) A log pi / tokens."""
    value, gradient = 0.0, torch.zeros_like(logprobs)
    tokens = int(mask.sum())
    for i, t in mask.nonzero().tolist():
        weight = min(math.exp(logprobs[i, t] - old[i, t]), 1 + clip_high)
        value -= weight * advantages[i].item() * logprobs[i, t].item() / tokens
        gradient[i, t] = -weight * advantages[i] / tokens
    return value, gradient


def random_inputs(seed, spread):
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(4, 11, generator=generator, dtype=torch.float64) - 3
    mask = torch.rand(4, 11, generator=generator) < 0.7
    mask[0, 0] = True
    logprobs = old + spread * torch.randn(4, 11, generator=generator, dtype=torch.float64)
    return logprobs, old, torch.randn(4, generator=generator, dtype=torch.float64), mask


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), spread=st.floats(0, 3), clip_high=st.floats(1e-3, 10))
def test_value_and_gradient_equal_the_plain_loop(seed, spread, clip_high):
    inputs = random_inputs(seed, spread)
    expected, expected_gradient = plain_loop(*inputs, clip_high)
    value, gradient, _ = loss_and_gradient("cispo", *inputs, clip_high=clip_high)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def test_a_case_worked_by_hand():
    """Ratios 2 (kept), e^2 = 7.4 (cut to 5, the default) and e^-7 (no lower bound); advantage -3."""
    old = torch.full((1, 3), -9.0, dtype=torch.float64)
    logprobs = old + torch.tensor([[math.log(2), 2.0, -7.0]], dtype=torch.float64)
    weights = [2.0, 5.0, math.exp(-7)]
    value, gradient, metrics = loss_and_gradient(
        "cispo", logprobs, old, torch.tensor([-3.0], dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    )
    assert gradient.tolist()[0] == pytest.approx([3 * weight / 3 for weight in weights])
    assert value == pytest.approx(sum(w * x for w, x in zip(weights, logprobs.tolist()[0], strict=True)))
    assert metrics["ratio/max"].item() == pytest.approx(math.exp(2))  # as it is, not as it weighs
    assert (metrics["clip/low"].item(), metrics["clip/high"].item()) == pytest.approx((0, 1 / 3))


def test_no_token_loses_its_gradient_where_the_surrogate_takes_it():
    inputs = random_inputs(0, spread=2)
    _, surrogate, metrics = loss_and_gradient("dapo", *inputs)
    _, gradient, _ = loss_and_gradient("cispo", *inputs)
    mask = inputs[3]
    assert metrics["clip/low"] + metrics["clip/high"] > 0.2
    assert (surrogate[mask] == 0).float().mean() > 0.2
    assert (gradient[mask] != 0).all()
    assert (gradient[~mask] == 0).all()


def test_on_policy_the_gradient_is_that_of_the_surrogate():
    logprobs, old, advantages, mask = random_inputs(1, spread=0)
    _, surrogate, _ = loss_and_gradient("dapo", logprobs, old, advantages, mask)
    _, gradient, _ = loss_and_gradient("cispo", logprobs, old, advantages, mask)
    torch.testing.assert_close(gradient, surrogate, rtol=1e-12, atol=0)


def test_the_guide_shows_the_file_and_its_golden_test_as_they_are():
    guide = GUIDE.read_text()
    assert f"```python\n{inspect.getsource(cispo)}```" in guide
    assert f"```python\n{inspect.getsource(plain_loop)}" in guide
