"""Equality with TRL's GRPO loss, called on a stand-in for its trainer that carries what the method reads."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from evolpo.rl.losses import LOSSES

pytest.importorskip("trl")
from trl.trainer.grpo_trainer import GRPOTrainer  # takes seconds, so only once TRL is known to be there


def trl_loss(case, *, level, low, high, beta, loss_type="grpo"):
    """Loss, gradient and metrics of TRL 1.16."""
    logprobs = case["logprobs"].clone().requires_grad_()
    mask = case["mask"].long()
    accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, gather_for_metrics=lambda x: x
    )
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logprobs, torch.zeros_like(logprobs), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        beta=beta,
        loss_type=loss_type,
        epsilon_low=low,
        epsilon_high=high,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        use_vllm=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        accelerator=accelerator,
        _metrics={"train": defaultdict(list)},
    )
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 2, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 2, dtype=torch.long),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": case["advantages"],
        "old_per_token_logps": case["old"],
        "ref_per_token_logps": case["ref"],
        "num_items_in_batch": mask.sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    metrics = {name: values[0] for name, values in trainer._metrics["train"].items()}
    return loss.detach(), logprobs.grad, metrics


def random_case(seed, rows=6, width=17):
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(rows, width, generator=generator) - 2
    lengths = torch.randint(1, width + 1, (rows, 1), generator=generator)
    return {
        "old": old,
        "logprobs": old + 0.15 * torch.randn(rows, width, generator=generator),
        "ref": old + 0.2 * torch.randn(rows, width, generator=generator),
        "advantages": torch.randn(rows, generator=generator),
        "mask": torch.arange(width)[None, :] < lengths,
    }


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize(("name", "level"), [("grpo", "token"), ("gspo", "sequence")])
@pytest.mark.parametrize("clip", [(0.2, 0.2), (0.01, 0.05), (3e-4, 4e-4)])
def test_loss_and_gradient_equal_trl(name, level, clip, beta):
    for seed in range(5):
        case = random_case(seed)
        expected, expected_gradient, trl_metrics = trl_loss(case, level=level, low=clip[0], high=clip[1], beta=beta)
        logprobs = case["logprobs"].clone().requires_grad_()
        loss, metrics = LOSSES[name](
            logprobs,
            case["old"],
            case["advantages"],
            case["mask"],
            torch.zeros_like(case["mask"], dtype=torch.long),
            *clip,
            kl_coef=beta,
            ref_logprobs=case["ref"],
        )
        loss.backward()
        assert (loss - expected).abs().item() <= 1e-6
        assert (logprobs.grad - expected_gradient).abs().max().item() <= 1e-6
        if level == "token":
            assert metrics["clip/low"].item() == pytest.approx(trl_metrics["clip_ratio/low_mean"], abs=1e-6)
            assert metrics["clip/high"].item() == pytest.approx(trl_metrics["clip_ratio/high_mean"], abs=1e-6)
        if beta:
            assert metrics["kl"].item() == pytest.approx(trl_metrics["kl"], abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("most", [5.0, 1.2, 1.02])
def test_cispo_equals_trl(most, beta):
    """TRL gives the largest weight itself where ours is a distance from 1."""
    for seed in range(5):
        case = random_case(seed)
        if seed % 2:  # TRL counts cut weights of positive advantages alone
            case["advantages"] = case["advantages"].abs()
        expected, expected_gradient, trl_metrics = trl_loss(
            case, level="token", low=0.2, high=most, beta=beta, loss_type="cispo"
        )
        logprobs = case["logprobs"].clone().requires_grad_()
        loss, metrics = LOSSES["cispo"](
            logprobs,
            case["old"],
            case["advantages"],
            case["mask"],
            torch.zeros_like(case["mask"], dtype=torch.long),
            clip_high=most - 1,
            kl_coef=beta,
            ref_logprobs=case["ref"],
        )
        loss.backward()
        assert (loss - expected).abs().item() <= 1e-6
        assert (logprobs.grad - expected_gradient).abs().max().item() <= 1e-6
        if seed % 2:
            assert metrics["clip/high"].item() == pytest.approx(trl_metrics["cispo_clip_ratio"], abs=1e-6)
