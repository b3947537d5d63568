"""The Ling 2.0 model against the plain version, its cache, its sizes, and multi-token prediction."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_ling import plain_logits, plain_mtp_logits
from small_ling import make_ling
from torch import nn

from evolpo.model.config import PRESETS, BailingMoeV2Config, preset
from evolpo.model.ling import count_parameters
from evolpo.model.weights import published
from evolpo.rl.batching import collate
from evolpo.rl.data import Row
from evolpo.rl.logprobs import Policy, check_supported

TOKENS = [5, 9, 33, 2, 60, 17, 5, 41, 8]


def plain_weights(model):
    pairs = (pair for name, tensor in model.state_dict().items() for pair in published(name, tensor))
    return {name: tensor.double() for name, tensor in pairs}


@settings(max_examples=5, deadline=None)
@given(tokens=st.lists(st.integers(0, 63), min_size=1, max_size=12), seed=st.integers(0, 3))
def test_logits_equal_the_plain_version(tokens, seed):
    model = make_ling(seed)
    ours = model(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(
        ours.double(), plain_logits(tokens, plain_weights(model), model.config), atol=1e-4, rtol=0
    )


def test_a_batch_equals_its_rows_with_padding_on_either_side(ling):
    alone = ling(torch.tensor([TOKENS[:5]])).logits[0]
    both = torch.tensor([TOKENS, [0, 0, 0, 0, *TOKENS[:5]]])
    mask = torch.tensor([[1] * 9, [0] * 4 + [1] * 5])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = ling(both, attention_mask=mask, position_ids=positions).logits[1, 4:]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)


def test_the_cache_gives_the_same_greedy_tokens(ling):
    ids = torch.tensor([TOKENS])
    whole = ids
    for _ in range(12):
        whole = torch.cat([whole, ling(whole).logits[:, -1:].argmax(-1)], dim=1)
    cached = ling.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=-1
    )
    assert cached.tolist() == whole.tolist()


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [("ling_mini", 16.26e9, 1.43e9), ("ling_flash", 102.8e9, 6.1e9), ("ling_1t", 999.3e9, 50.9e9)],
)
def test_counts_are_those_of_the_published_models(name, total, active):
    counted = count_parameters(preset(name))
    assert counted[0] == pytest.approx(total, rel=0.005)
    assert counted[1] == pytest.approx(active, rel=0.01)


def test_ling_nano_has_the_shape_of_the_large_ones():
    total, active = count_parameters(preset("ling_nano"))
    assert 4e6 < total < 8e6
    assert active < total / 2
    assert PRESETS["ling_nano"]["num_experts"] >= 32


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_experts": 30}, "n_group"),
        ({"topk_group": 5}, "topk_group"),
        ({"num_experts_per_tok": 20}, "num_experts_per_tok"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"n_group": 32, "topk_group": 8}, "n_group"),
        ({"use_qk_norm": False}, "use_qk_norm"),
        ({"score_function": "softmax"}, "score_function"),
    ],
    ids=lambda value: str(value),
)
def test_sizes_that_do_not_fit_are_refused(changes, field):
    with pytest.raises(Exception, match=f"{field}: "):
        preset("ling_nano", **changes)


def test_public_configurations_are_read():
    public = {"rope_theta": 600000, "rope_scaling": None, "partial_rotary_factor": 0.5, "rotary_dim": 64}
    config = BailingMoeV2Config(**public, moe_shared_expert_intermediate_size=512)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 600000, "partial_rotary_factor": 0.5}


def yarn_model():
    rope = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "rope_theta": 600_000.0,
        "partial_rotary_factor": 0.5,
    }
    return make_ling(rope_parameters=rope, max_position_embeddings=64)


def test_yarn_changes_slow_frequencies_and_the_scale():
    stretched, plain = yarn_model().model.rotary, make_ling().model.rotary
    assert stretched.scaling == pytest.approx(0.1 * torch.tensor(4.0).log().item() + 1)
    ratio = stretched.inverse_frequencies / plain.inverse_frequencies
    assert ratio[0] == 1.0
    assert ratio[-1] == pytest.approx(0.25)


def test_the_angles_keep_float32_in_a_bfloat16_model(ling):
    before = ling.model.rotary.inverse_frequencies.clone()
    ling.bfloat16()
    assert torch.equal(ling.model.rotary.inverse_frequencies, before)


# -- in the policy ------------------------------------------------------------------------------------------------


def rows_of(*lengths):
    generator = torch.Generator().manual_seed(3)

    def draw(n):
        return tuple(torch.randint(0, 64, (n,), generator=generator).tolist())

    return [Row(i, draw(p), draw(r), (0,) * r, 1.0, (0.0,) * r) for i, (p, r) in enumerate(lengths)]


def test_the_policy_supports_the_model(ling):
    check_supported(Policy(ling))


def test_mtp_logprobs_equal_the_plain_version(ling):
    rows = rows_of((4, 5), (2, 3))
    batch = collate(rows, [[0], [1]], torch.device("cpu"))
    _, _, further = Policy(ling, mtp_weight=0.1)(batch)
    weights = plain_weights(ling)
    for place, row in enumerate(rows):
        logs = plain_mtp_logits([*row.prompt_ids, *row.response_ids], weights, ling.config).log_softmax(-1)
        for i, token in enumerate(row.response_ids):
            expected = logs[len(row.prompt_ids) - 2 + i, token]
            assert further[place, i].item() == pytest.approx(expected.item(), abs=1e-4)
    assert (further[1, 3:] == 0).all()


def test_mtp_gradients_equal_the_plain_version(ling):
    """They reach the layer itself, the trunk below it, the embedding and the head."""
    [row] = rows_of((3, 4))
    _, _, further = Policy(ling, mtp_weight=0.1)(collate([row], [[0]], torch.device("cpu")))
    further.sum().backward()
    weights = {name: tensor.requires_grad_() for name, tensor in plain_weights(ling).items()}
    logs = plain_mtp_logits([*row.prompt_ids, *row.response_ids], weights, ling.config).log_softmax(-1)
    sum(logs[1 + i, token] for i, token in enumerate(row.response_ids)).backward()
    gradients = {name: parameter.grad for name, parameter in ling.named_parameters()}
    for name in (
        "model.layers.3.eh_proj.weight",
        "model.layers.3.mlp.gate.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.attention.query_key_value.weight",
        "model.word_embeddings.weight",
        "lm_head.weight",
    ):
        scale = weights[name].grad.abs().max()
        assert scale > 0
        assert (gradients[name] - weights[name].grad).abs().max() < 1e-4 * scale, name


def test_mtp_is_frozen_and_silent_without_a_weight(ling):
    policy = Policy(ling)
    assert policy(collate(rows_of((3, 4)), [[0]], torch.device("cpu")))[2] is None
    assert not any(p.requires_grad for p in ling.model.layers[-1].parameters())
    assert all(p.requires_grad for p in ling.model.layers[0].parameters())


def test_mtp_refuses_prompts_that_responses_share(ling):
    rows = rows_of((3, 4), (3, 4))
    rows[1] = Row(0, rows[0].prompt_ids, rows[1].response_ids, (0,) * 4, 1.0, (0.0,) * 4)
    with pytest.raises(ValueError, match="one response each"):
        Policy(ling, mtp_weight=0.1)(collate(rows, [[0, 1]], torch.device("cpu")))


def test_checkpointed_activations_change_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = make_ling().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        policy = Policy(model)
        policy(collate(rows_of((4, 6)), [[0]], torch.device("cpu")))[0].sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_layers_have_no_biases(ling):
    assert all(m.bias is None for m in ling.modules() if isinstance(m, nn.Linear))
