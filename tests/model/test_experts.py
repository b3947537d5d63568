"""Grouped experts against a loop over experts; the router's choice; the balance of loads."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_ling import SMALL, make_ling

from evolpo.model.balance import balance, updated_bias
from evolpo.model.config import preset
from evolpo.model.experts import ALIGNMENT, Experts, Router, experts_by_loop, plan, routers
from evolpo.model.ling import separate_experts


def make_experts(count=6, hidden=16, intermediate=8, dtype=torch.float32):
    experts = Experts(count, hidden, intermediate)
    generator = torch.Generator().manual_seed(1)
    for parameter in experts.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).mul(0.3)
    return experts.to(dtype)


def results(function, hidden, chosen, weights):
    leaves = hidden.clone().requires_grad_(), weights.clone().requires_grad_()
    output = function(leaves[0], chosen, leaves[1])
    upstream = torch.linspace(-1, 1, output.numel()).view_as(output)
    (output * upstream).sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def stacked_gradients(separate):
    """Gradients of separate experts in the layout of the stacked ones."""
    gate_up = [torch.cat((expert.gate_proj.weight.grad, expert.up_proj.weight.grad)) for expert in separate]
    return torch.stack(gate_up), torch.stack([expert.down_proj.weight.grad for expert in separate])


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 40), used=st.integers(1, 4), reachable=st.integers(1, 6), seed=st.integers(0, 99))
def test_values_and_gradients_equal_the_loop(tokens, used, reachable, seed):
    """`reachable` below six leaves experts without a token: their gradient is zero, not garbage."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 16, generator=generator)
    used = min(used, reachable)
    chosen = torch.rand(tokens, reachable, generator=generator).topk(used, dim=1).indices
    weights = torch.rand(tokens, used, generator=generator)
    experts = make_experts()
    separate = separate_experts(experts)
    ours = results(experts, hidden, chosen, weights)
    theirs = results(lambda *given: experts_by_loop(separate, *given), hidden, chosen, weights)
    ours += [experts.gate_up_proj.grad, experts.down_proj.grad]
    for mine, yours in zip(ours, [*theirs, *stacked_gradients(separate)], strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-5)


@given(chosen=st.lists(st.permutations(range(5)), min_size=1, max_size=50), used=st.integers(1, 3))
def test_a_plan_holds_every_choice_once_and_repeats_no_other_expert(chosen, used):
    choice = torch.tensor(chosen)[:, :used]
    made = plan(choice, 5)
    flat = choice.flatten()
    assert made.slots[made.rows].tolist() == list(range(len(flat)))
    assert int((~made.filler).sum()) == len(flat)
    begins = [0, *made.ends.tolist()]
    for expert, (begin, end) in enumerate(pairwise(begins)):
        assert (end - begin) % ALIGNMENT == 0
        assert end - begin < int((flat == expert).sum()) + ALIGNMENT
        assert (flat[made.slots[begin:end]] == expert).all()


def test_bfloat16_comes_close_to_the_loop():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 16, generator=generator).bfloat16()
    chosen = torch.rand(64, 6, generator=generator).topk(3, dim=1).indices
    weights = torch.rand(64, 3, generator=generator)
    experts = make_experts(dtype=torch.bfloat16)
    exact = experts_by_loop(separate_experts(make_experts()), hidden.float(), chosen, weights)
    assert (experts(hidden, chosen, weights).float() - exact).abs().max() < 0.03 * exact.abs().max()


# -- the router ---------------------------------------------------------------------------------------------------


def make_router(**changes):
    config = preset("ling_nano", **(SMALL | {"hidden_size": 8} | changes))
    router = Router(config)
    torch.nn.init.eye_(router.weight)
    return router


def logit(p):
    return torch.tensor(p).logit()


def test_a_choice_worked_by_hand():
    """Four groups of two. Sums of the two best: 1.1, 1.0, 1.2, 0.3; groups 0 and 2 stay; of them 0.9, 0.8, 0.4."""
    router = make_router()
    scores = [0.9, 0.2, 0.5, 0.5, 0.8, 0.4, 0.1, 0.2]
    chosen, weights = router(logit(scores)[None])
    assert chosen.tolist() == [[0, 4, 5]]
    expected = [2.5 * s / (0.9 + 0.8 + 0.4) for s in (0.9, 0.8, 0.4)]
    assert weights[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_the_bias_decides_the_choice_and_not_the_weights():
    router = make_router()
    scores = [0.9, 0.2, 0.5, 0.5, 0.8, 0.4, 0.1, 0.2]
    router.expert_bias[6] = 2.0
    chosen, weights = router(logit(scores)[None])
    assert chosen.tolist() == [[6, 4, 5]]  # group 3 now sums to 2.3, group 2 to 1.2, group 0 to 1.1
    expected = [2.5 * s / sum((0.1, 0.8, 0.4)) for s in (0.1, 0.8, 0.4)]
    assert weights[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_negative_biases_do_not_open_closed_groups():
    router = make_router()
    router.expert_bias.fill_(-5.0)
    chosen, _ = router(logit([0.9, 0.2, 0.5, 0.5, 0.8, 0.4, 0.1, 0.2])[None])
    assert set(chosen[0].tolist()) == {0, 4, 5}


def test_the_bias_stays_in_float32_and_has_no_gradient(ling):
    ling.bfloat16()
    assert all(router.expert_bias.dtype == torch.float32 for router in routers(ling))
    assert ling.lm_head.weight.dtype == torch.bfloat16
    assert not any("expert_bias" in name for name, _ in ling.named_parameters())


# -- balance ------------------------------------------------------------------------------------------------------


@given(load=st.lists(st.integers(0, 50), min_size=2, max_size=16), rate=st.floats(1e-5, 1e-2))
def test_updates_keep_the_mean_and_raise_the_idle(load, rate):
    bias = updated_bias(torch.zeros(len(load)), torch.tensor(load), rate)
    assert bias.mean().item() == pytest.approx(0, abs=1e-8)
    mean = sum(load) / len(load)
    idle, busy = (
        [b for b, n in zip(bias, load, strict=True) if n < mean],
        [b for b, n in zip(bias, load, strict=True) if n > mean],
    )
    assert not idle or min(idle) > max(busy)


def test_an_update_worked_by_hand():
    """Loads 0, 2, 4, 10, mean 4: signs +1, +1, 0, -1, their mean 1/4."""
    bias = updated_bias(torch.tensor([0.1, 0.0, 0.0, -0.1]), torch.tensor([0, 2, 4, 10]), 1e-3)
    assert bias.tolist() == pytest.approx([0.10075, 0.00075, -0.00025, -0.10125], rel=1e-4)


def test_skewed_routing_evens_out():
    """All tokens prefer the same experts at the start; only the biases change."""
    model = make_ling(num_nextn_predict_layers=0)
    generator = torch.Generator().manual_seed(0)
    for router in routers(model):
        router.expert_bias.zero_()
        router.weight.data[:3] += 1.0 * torch.randn(32, generator=generator)
        router.weight.data.mul_(0.2)
    ids = torch.randint(0, 64, (4, 64), generator=generator)
    violations = []
    for _ in range(400):
        model(ids)
        metrics = balance(routers(model), 2e-3)
        violations.append(metrics.worst_violation)
    assert violations[0] > 0.9
    assert max(violations[-20:]) < violations[0] / 3
    assert metrics.dead_experts == 0
    assert metrics.bias_spread > 0
    assert all(abs(router.expert_bias.mean()) < 1e-5 for router in routers(model))


def test_only_training_counts_and_a_dense_model_has_nothing_to_balance(ling):
    ids = torch.randint(0, 64, (2, 5))
    with torch.no_grad():
        ling(ids)
    assert all(router.load.sum() == 0 for router in routers(ling))
    ling(ids)
    assert [int(router.load.sum()) for router in routers(ling)] == [30, 30, 0]  # the MTP layer did not run
    before = [router.expert_bias.clone() for router in routers(ling)]
    balance(routers(ling), 1e-3)
    after = [router.expert_bias for router in routers(ling)]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, False, True]
    assert all(router.load.sum() == 0 for router in routers(ling))
    assert balance([], 1e-3) is None
