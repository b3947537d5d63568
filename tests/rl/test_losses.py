"""Every loss against a slow plain loop in float64, the identities between losses, and what must not matter."""

import math
import random

import pytest
import torch

from evolpo.rl.losses import LOSSES

UNIT = {
    "lpo": "given",
    "grpo": "token",
    "dapo": "token",
    "gspo": "sequence",
    "gspo_token_mean": "sequence",
    "cispo": "token",
}
PER_RESPONSE = {"grpo", "gspo"}
PUBLISHED = {
    "lpo": (0.03, 0.03),
    "grpo": (0.2, 0.2),
    "dapo": (0.2, 0.28),
    "gspo": (3e-4, 4e-4),
    "gspo_token_mean": (3e-4, 4e-4),
    "cispo": (1.0, 4.0),
}
VARIANTS = {
    "plain": {},
    "clip": {"clip_low": 0.1, "clip_high": 0.25},
    "denominator": {"denominator": 97.0},
    "k1": {"kl_coef": 0.3, "kl_estimator": "k1"},
    "k2": {"kl_coef": 0.3, "kl_estimator": "k2"},
    "k3": {"kl_coef": 0.3, "kl_estimator": "k3"},
    "tis": {"correction": "tis", "correction_high": 1.05},
    "icepop": {"correction": "icepop", "correction_low": 0.9, "correction_high": 1.1},
    "all": {
        "clip_low": 0.02,
        "clip_high": 0.05,
        "denominator": 41.0,
        "kl_coef": 0.7,
        "correction": "tis",
        "correction_high": 1.02,
    },
}


def random_case(seed, rows=5, width=13, dtype=torch.float64, holes=True):
    """Log-probabilities, advantages, masks with holes, and units of random length, one row empty now and then."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    mask = torch.rand(rows, width, generator=generator) < 0.7
    if not holes:
        lengths = torch.randint(1, width + 1, (rows, 1), generator=generator)
        mask = torch.arange(width)[None, :] < lengths
    mask[0, 0] = True
    starts = torch.rand(rows, width, generator=generator) < 0.3
    starts[:, 0] = False
    old = normal(rows, width) - 3
    return {
        "logprobs": (old + 0.1 * normal(rows, width)).requires_grad_(),
        "old_logprobs": old,
        "advantages": normal(rows),
        "mask": mask,
        "units": starts.long().cumsum(1),
        "ref_logprobs": old + 0.2 * normal(rows, width),
        "rollout_logprobs": old + 0.1 * normal(rows, width),
    }


def kl_and_gradient(estimator, x):
    """KL estimate from x = log pi_ref - log pi, and its derivative with respect to log pi."""
    if estimator == "k1":
        return -x, 1.0
    if estimator == "k2":
        return x * x / 2, -x
    return math.exp(x) - x - 1, 1 - math.exp(x)


def corrected(weight, name, low, high):
    if name == "tis":
        return min(weight, high)
    if name == "icepop":
        return weight if low <= weight <= high else 0.0
    return 1.0


def slow_loss(
    name,
    case,
    clip_low=None,
    clip_high=None,
    denominator=None,
    kl_coef=0.0,
    kl_estimator="k3",
    correction="none",
    correction_low=0.5,
    correction_high=2.0,
):
    """Loss and gradient by the formulas, one token at a time, the derivative worked out by hand."""
    low, high = PUBLISHED[name]
    low, high = clip_low or low, clip_high or high
    now, old, ref, rollout = (
        case[k].tolist() for k in ("logprobs", "old_logprobs", "ref_logprobs", "rollout_logprobs")
    )
    mask, units, advantages = (case[k].tolist() for k in ("mask", "units", "advantages"))
    all_tokens = sum(sum(line) for line in mask)
    value, gradient = 0.0, [[0.0] * len(line) for line in mask]
    for i, line in enumerate(mask):
        tokens = [t for t, inside in enumerate(line) if inside]
        if name in PER_RESPONSE:
            share = 1 / (max(len(tokens), 1) * (denominator or len(mask)))
        else:
            share = 1 / (denominator or all_tokens)
        for t in tokens:
            members = {
                "given": [s for s in tokens if units[i][s] == units[i][t]],
                "token": [t],
                "sequence": tokens,
            }[UNIT[name]]
            ratio = math.exp(sum(now[i][s] - old[i][s] for s in members) / len(members))
            gap = math.exp(sum(old[i][s] - rollout[i][s] for s in members) / len(members))
            weight = corrected(gap, correction, correction_low, correction_high)
            clipped = min(max(ratio, 1 - low), 1 + high)
            if name == "cispo":
                value -= share * weight * clipped * advantages[i] * now[i][t]
                gradient[i][t] -= share * weight * clipped * advantages[i]
            else:
                value -= share * weight * min(ratio * advantages[i], clipped * advantages[i])
            if name != "cispo" and ratio * advantages[i] <= clipped * advantages[i]:  # not clipped away
                for s in members:
                    gradient[i][s] -= share * weight * advantages[i] * ratio / len(members)
            kl, slope = kl_and_gradient(kl_estimator, ref[i][t] - now[i][t])
            value += kl_coef * share * kl
            gradient[i][t] += kl_coef * share * slope
    return value, torch.tensor(gradient, dtype=torch.float64)


def fast_loss(name, case, **options):
    """Loss, gradient and metrics by the module under test."""
    logprobs = case["logprobs"].detach().clone().requires_grad_()
    order = ("old_logprobs", "advantages", "mask", "units")
    extra = {k: case[k] for k in ("ref_logprobs", "rollout_logprobs")}
    loss, metrics = LOSSES[name](logprobs, *(case[k] for k in order), **extra, **options)
    loss.backward()
    return loss.detach(), logprobs.grad, metrics


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_equal_the_plain_loop(name, variant):
    for seed in range(8):
        case = random_case(seed)
        expected, expected_gradient = slow_loss(name, case, **VARIANTS[variant])
        value, gradient, _ = fast_loss(name, case, **VARIANTS[variant])
        assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_equal_the_plain_loop_for_random_options(name):
    for seed in range(40):
        draw = random.Random(seed)
        options = {
            "clip_low": draw.uniform(1e-4, 0.3),
            "clip_high": draw.uniform(1e-4, 0.3),
            "denominator": draw.choice([None, draw.uniform(1, 500)]),
            "kl_coef": draw.choice([0.0, draw.uniform(0, 1)]),
            "kl_estimator": draw.choice(["k1", "k2", "k3"]),
            "correction": draw.choice(["none", "tis", "icepop"]),
            "correction_low": draw.uniform(0.8, 1.0),
            "correction_high": draw.uniform(1.0, 1.2),
        }
        case = random_case(seed, rows=draw.randint(1, 6), width=draw.randint(1, 20))
        expected, expected_gradient = slow_loss(name, case, **options)
        value, gradient, _ = fast_loss(name, case, **options)
        assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


def test_cases_reach_both_sides_of_the_clip_range_and_of_the_correction():
    _, _, metrics = fast_loss("dapo", random_case(0), clip_low=0.02, clip_high=0.05, correction="icepop")
    assert metrics["clip/low"] > 0
    assert metrics["clip/high"] > 0
    _, _, metrics = fast_loss("lpo", random_case(0), **VARIANTS["icepop"])
    assert 0 < metrics["correction/changed"] < 1


def test_a_case_worked_by_hand():
    """Two sentences of 2 and 1 tokens, ratios e^0.02 (kept) and e^0.5 (clipped at 1.03), advantage 2."""
    now = torch.tensor([[-1.0, -0.96, -0.5]], dtype=torch.float64, requires_grad=True)
    old = torch.full((1, 3), -1.0, dtype=torch.float64)
    mask, units = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[0, 0, 1]])
    loss, metrics = LOSSES["lpo"](now, old, torch.tensor([2.0], dtype=torch.float64), mask, units)
    loss.backward()
    kept = math.exp(0.02)
    assert loss.item() == pytest.approx(-(2 * 2 * kept + 1 * 2 * 1.03) / 3, abs=1e-12)
    assert now.grad.tolist()[0] == pytest.approx([-2 * kept / 3, -2 * kept / 3, 0.0], abs=1e-12)
    assert metrics["ratio/max"].item() == pytest.approx(math.exp(0.5))
    assert metrics["ratio/min"].item() == pytest.approx(kept)
    assert metrics["ratio/mean"].item() == pytest.approx((2 * kept + math.exp(0.5)) / 3)
    assert (metrics["clip/low"].item(), metrics["clip/high"].item()) == pytest.approx((0.0, 1 / 3))


@pytest.mark.parametrize(("name", "clip"), PUBLISHED.items())
def test_the_default_clip_range_is_the_published_one(name, clip):
    case = random_case(3)
    given, gradient, _ = fast_loss(name, case, clip_low=clip[0], clip_high=clip[1])
    default, default_gradient, _ = fast_loss(name, case)
    assert torch.equal(given, default)
    assert torch.equal(gradient, default_gradient)


def float32_error(first, second, case):
    value, gradient, _ = fast_loss(first, case, clip_low=0.05, clip_high=0.07)
    other, other_gradient, _ = fast_loss(second, case, clip_low=0.05, clip_high=0.07)
    return max((value - other).abs().item(), (gradient - other_gradient).abs().max().item())


def test_one_token_a_unit_is_the_token_level_ratio():
    for seed in range(10):
        case = random_case(seed, width=400, dtype=torch.float32)
        case["units"] = torch.arange(case["mask"].shape[1]).expand_as(case["mask"])
        assert float32_error("lpo", "dapo", case) <= 1e-6


def test_one_unit_a_response_is_the_sequence_level_ratio():
    for seed in range(10):
        case = random_case(seed, width=400, dtype=torch.float32)
        case["units"] = torch.zeros_like(case["units"])
        assert float32_error("lpo", "gspo_token_mean", case) <= 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_what_stands_outside_the_mask_changes_nothing(name):
    case = random_case(1, holes=False)
    mask = case["mask"]
    garbage = dict(case)
    for seed, field in enumerate(("logprobs", "old_logprobs", "ref_logprobs", "rollout_logprobs")):
        noise = 1e4 * torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        garbage[field] = torch.where(mask, case[field], noise).detach()
    garbage["units"] = torch.where(mask, case["units"], 7)
    options = VARIANTS["all"]
    value, gradient, metrics = fast_loss(name, case, **options)
    other, other_gradient, other_metrics = fast_loss(name, garbage, **options)
    assert torch.equal(value, other)
    assert torch.equal(gradient, other_gradient)
    assert (other_gradient[~mask] == 0).all()
    assert {k: v.item() for k, v in metrics.items()} == {k: v.item() for k, v in other_metrics.items()}


@pytest.mark.parametrize("correction", ["tis", "icepop"])
@pytest.mark.parametrize("name", ["lpo", "gspo", "gspo_token_mean"])
def test_correction_weights_do_not_shrink_with_length(name, correction):
    """A gap of -0.01 nats a token summed over 4,000 tokens would be a weight of e^-40."""
    for length in (1, 40, 4000):
        old = torch.full((1, length), -1.0, dtype=torch.float64)
        _, metrics = LOSSES[name](
            old.clone().requires_grad_(),
            old,
            torch.ones(1, dtype=torch.float64),
            torch.ones(1, length, dtype=torch.bool),
            torch.zeros(1, length, dtype=torch.long),
            rollout_logprobs=old + 0.01,
            correction=correction,
        )
        assert metrics["correction/mean"].item() == pytest.approx(math.exp(-0.01), rel=1e-12)
        assert metrics["correction/changed"].item() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_parts_under_a_common_denominator_add_up(name):
    case = random_case(4, rows=6)
    count = 6 if name in PER_RESPONSE else int(case["mask"].sum())
    whole, gradient, _ = fast_loss(name, case)
    parts = [{k: v[rows] for k, v in case.items()} for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    results = [fast_loss(name, part, denominator=count) for part in parts]
    torch.testing.assert_close(sum(r[0] for r in results), whole, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.cat([r[1] for r in results]), gradient, rtol=0, atol=1e-14)


def test_kl_alone_has_a_gradient_where_the_surrogate_has_none():
    case = random_case(2)
    case["advantages"] = torch.zeros(5, dtype=torch.float64)
    _, without, _ = fast_loss("lpo", case)
    _, gradient, metrics = fast_loss("lpo", case, kl_coef=0.1)
    assert without.abs().max() == 0
    assert gradient.abs().max() > 0
    assert metrics["kl"] > 0


def test_without_a_penalty_no_reference_is_needed():
    case = random_case(2)
    loss, metrics = LOSSES["lpo"](*(case[k] for k in ("logprobs", "old_logprobs", "advantages", "mask", "units")))
    assert torch.isfinite(loss)
    assert "kl" not in metrics


def test_missing_inputs_are_named():
    case = random_case(2)
    inputs = [case[k] for k in ("logprobs", "old_logprobs", "advantages", "mask", "units")]
    with pytest.raises(ValueError, match="ref_logprobs"):
        LOSSES["lpo"](*inputs, kl_coef=0.1)
    with pytest.raises(ValueError, match="rollout_logprobs"):
        LOSSES["lpo"](*inputs, correction="tis")
    with pytest.raises(KeyError):
        LOSSES["lpo"](*inputs, kl_coef=0.1, kl_estimator="k4", ref_logprobs=case["ref_logprobs"])
    with pytest.raises(KeyError):
        LOSSES["lpo"](*inputs, correction="iceberg", rollout_logprobs=case["rollout_logprobs"])


def test_metrics_are_detached_scalars():
    _, _, metrics = fast_loss("lpo", random_case(5), **VARIANTS["all"])
    expected = {"ratio/mean", "ratio/max", "ratio/min", "clip/low", "clip/high"}
    assert set(metrics) == expected | {"kl", "correction/mean", "correction/changed"}
    assert all(v.dim() == 0 and not v.requires_grad for v in metrics.values())
