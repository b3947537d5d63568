"""Tiny models of every family: log-probabilities and gradients of the policy are those of the model's own logits."""

import pytest
import torch
from families import FAMILIES, WINDOW, make_model, write_model

from evolpo.model import load_model
from evolpo.model.names import by_layer, published, save_model
from evolpo.rl.batching import collate
from evolpo.rl.data import Row
from evolpo.rl.logprobs import Policy, check_supported, own_gaps

LONG = 3 * WINDOW
CPU = torch.device("cpu")


def rows():
    """Two responses to one prompt and one to another; all longer than the windows."""
    generator = torch.Generator().manual_seed(0)

    def draw(length):
        return tuple(torch.randint(3, 300, (length,), generator=generator).tolist())

    prompts = draw(LONG), draw(5)
    pairs = [(0, draw(9)), (0, draw(14)), (1, draw(LONG))]
    return [Row(g, prompts[g], r, (0,) * len(r), 1.0, (0.0,) * len(r)) for g, r in pairs]


def own_logprobs(model, row):
    ids = torch.tensor([row.prompt_ids + row.response_ids])
    logs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    start = len(row.prompt_ids)
    return logs[start - 1 : -1].gather(1, ids[0, start:, None]).squeeze(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_gradients_beyond_the_window(family):
    model = make_model(family)
    model.set_attn_implementation("eager")
    expected = torch.cat([own_logprobs(model, row) for row in rows()])
    weights = torch.linspace(-1, 1, len(expected))
    (expected * weights).sum().backward()
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    policy = Policy(model)
    check_supported(policy)
    batch = collate(rows(), [[0, 1], [2]], CPU)
    logprobs, *_ = policy(batch)
    ours = logprobs[batch.mask]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    (ours * weights).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_it_trains(family):
    policy = Policy(make_model(family).bfloat16())
    check_supported(policy)
    assert own_gaps(policy, LONG, 20).median() < 0.1
    batch = collate(rows(), [[0, 1], [2]], CPU)
    logprobs, *_ = policy(batch)
    logprobs.sum().backward()
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_loaded(family, tmp_path):
    model = write_model(family, tmp_path / "model")
    named = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if n in model.state_dict())]
    tensors = {k: t.detach() for part in by_layer(named) for k, t in published(model, part)}
    save_model(model, tmp_path / "saved", tensors.items())
    again = load_model(str(tmp_path / "saved"), torch.float32)
    for field, value in model.config.to_dict().items():
        if field not in ("dtype", "transformers_version", "_name_or_path"):
            assert again.config.to_dict()[field] == value, field
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
