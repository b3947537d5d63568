"""The trainer on tiny models of every family: an update, a checkpoint, and what plain transformers reads from it."""

import pytest
import torch
from families import FAMILIES, write_model
from launching import launch
from trainer_worker import GROUPS, make_rows
from transformers import AutoModelForCausalLM

from evolpo.model import load_model

STAGE_3 = ("gemma2", "mixtral", "gpt_oss", "deepseek_v3")
"""Families that are trained with sharded weights as well: tied and capped, and stacked experts of three kinds."""
BF16 = ("gemma2", "mixtral", "gpt_oss", "deepseek_v3")
CASES = [(family, 1, "fp32") for family in FAMILIES]
CASES += [(family, 3, "fp32") for family in STAGE_3] + [(family, 1, "bf16") for family in BF16]


def name_of(family, stage, precision):
    return f"{family}_{stage}_{precision}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    base = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        write_model(family, base / family)
    jobs = [
        {
            "name": name_of(family, stage, precision),
            "model": str(base / family),
            "config": {"zero_stage": stage, "precision": precision, "learning_rate": 1e-2},
            "groups": [list(range(GROUPS))],
            "steps": 1,
            "save_after": 1,
            "folder": str(base / f"saved_{name_of(family, stage, precision)}"),
        }
        for family, stage, precision in CASES
    ]
    return base, launch(jobs, 1, base / "one")


def read_model(family, folder, dtype=torch.float32):
    """By transformers alone, where it knows the family."""
    if family == "ling":
        return load_model(str(folder), dtype)
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), found
    return model.eval()


def own_logprobs(model, row):
    ids = torch.tensor([row.prompt_ids + row.response_ids])
    with torch.no_grad():
        logs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    start = len(row.prompt_ids)
    return logs[start - 1 : -1].gather(1, ids[0, start:, None]).squeeze(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_after_an_update_the_checkpoint_read_by_transformers_is_the_policy(trained, family):
    base, run = trained
    name = name_of(family, 1, "fp32")
    assert run[name]["changed"]
    before, after = read_model(family, base / family), read_model(family, base / f"saved_{name}")
    moved = 0.0
    for index, row in enumerate(make_rows()):
        expected = own_logprobs(after, row)
        ours = torch.tensor(run[name]["evaluations"][1][str(index)])
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(
            torch.tensor(run[name]["evaluations"][0][str(index)]), own_logprobs(before, row), rtol=0, atol=1e-4
        )
        moved = max(moved, (ours - own_logprobs(before, row)).abs().max().item())
    assert moved > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_checkpoint_has_the_names_of_the_published_one(trained, family):
    base, run = trained
    name = name_of(family, 1, "fp32")
    original, saved = stored(base / family), stored(base / f"saved_{name}")
    assert {k: (v.shape, v.dtype) for k, v in saved.items()} == {k: (v.shape, v.dtype) for k, v in original.items()}
    sent = run.tensors(name, "weights")
    assert sent.keys() - {"lm_head.weight"} == saved.keys() - {"lm_head.weight"}
    assert all(torch.equal(sent[key], tensor) for key, tensor in saved.items() if key in sent)


def stored(folder):
    from safetensors.torch import load_file

    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("family", STAGE_3)
def test_sharded_weights_give_the_same(trained, family):
    _, run = trained
    plain, sharded = (run.tensors(name_of(family, stage, "fp32"), "weights") for stage in (1, 3))
    assert plain.keys() == sharded.keys()
    for name, tensor in plain.items():
        # Adam's first step is the sign of a gradient: one that is zero but for rounding may go either way.
        assert ((sharded[name] - tensor).abs() > 1e-4).float().mean() < 1e-2, name


@pytest.mark.parametrize("family", BF16)
def test_in_bfloat16_the_checkpoint_is_the_policy_too(trained, family):
    base, run = trained
    name = name_of(family, 1, "bf16")
    after = read_model(family, base / f"saved_{name}", torch.bfloat16)
    gaps = [
        (torch.tensor(run[name]["evaluations"][1][str(index)]) - own_logprobs(after, row)).abs()
        for index, row in enumerate(make_rows())
    ]
    assert torch.cat(gaps).mean() < 0.1


def test_biases_of_experts_keep_their_precision(trained):
    base, run = trained
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    sent = run.tensors(name_of("deepseek_v3", 1, "bf16"), "weights")
    assert sent[name].dtype == torch.float32
    assert torch.equal(sent[name], stored(base / "deepseek_v3")[name])
