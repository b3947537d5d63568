"""Adapters: only they are trained, a step is that of the plain formula, and what is written is PEFT's."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import write_model
from tiny_models import write_tiny_model

from evolpo import InputError
from evolpo.model import load_model
from evolpo.model.lora import LoraConfig, adapted_names, adapter_layers, adapters_off
from evolpo.rl.batching import collate
from evolpo.rl.data import Batch, Row
from evolpo.rl.fold import fold_adapter
from evolpo.rl.logprobs import Policy
from evolpo.rl.losses import LOSSES, LossOptions
from evolpo.rl.trainer import Trainer
from evolpo.rl.training.config import TrainerConfig

CONFIG = TrainerConfig(zero_stage=0, precision="fp32", learning_rate=1e-2)
LORA = LoraConfig(rank=2, alpha=4.0)


def rows() -> Batch:
    made = []
    for index in range(6):
        prompt = tuple(range(5 + index // 2, 12 + index // 2))
        response = tuple((index * 31 + place * 7) % 290 for place in range(9))
        units = tuple(place // 3 for place in range(9))
        made.append(Row(index // 2, prompt, response, units, 1.0 if index % 2 else -0.5, (-5.0,) * 9))
    return Batch(tuple(made))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    write_tiny_model(folder)
    return folder


def trainer_of(base: Path, config: TrainerConfig = CONFIG, **more) -> Trainer:
    options = more.pop("options", LossOptions())
    return Trainer(str(base), config, total_updates=4, options=options, lora=more.pop("lora", LORA), **more)


def stepped(trainer: Trainer, updates: int = 2) -> Trainer:
    for _ in range(updates):
        trainer.update(rows(), LOSSES["lpo"])
    return trainer


def logprobs(trainer: Trainer) -> torch.Tensor:
    found = trainer.logprobs(rows().rows)
    return torch.tensor([found[index] for index in sorted(found)])


def of_folder(folder: Path) -> torch.Tensor:
    """Log-probabilities of the rows under a model folder, by a policy of its own."""
    policy = Policy(load_model(str(folder), torch.float32)).eval()
    with torch.no_grad():
        values, *_ = policy(collate(rows().rows, [[i] for i in range(6)], "cpu"))
    return values


def test_only_adapters_are_trained(base: Path) -> None:
    trainer = trainer_of(base)
    before = {name: tensor.clone() for name, tensor in trainer.policy.named_parameters()}
    trained = {name for name, p in trainer.policy.named_parameters() if p.requires_grad}
    assert trained == {name for name in before if ".lora_" in name}
    assert len(trained) == 2 * 2 * 7
    torch.testing.assert_close(logprobs(trainer), of_folder(base), rtol=0, atol=1e-6)  # B is zero: the base
    stepped(trainer)
    changed = {name for name, p in trainer.policy.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trained
    numbers = sum(p.numel() for p in trainer.policy.parameters() if p.requires_grad)
    moments = [v for state in trainer.optimizer.state.values() for n, v in state.items() if n.startswith("exp_avg")]
    assert sum(v.numel() for v in moments) == 2 * numbers


def test_a_step_is_that_of_the_plain_formula(base: Path) -> None:
    """W + scale B A formed as one matrix, autograd through it, and AdamW of torch."""
    trainer = trainer_of(base, replace(CONFIG, max_grad_norm=1e9))
    plain = Policy(load_model(str(base), torch.float32)).eval().requires_grad_(False)
    layers = adapter_layers(trainer.policy.model)
    own = {
        name: [layer.lora_A["default"].weight.detach().clone(), layer.lora_B["default"].weight.detach().clone()]
        for name, layer in layers.items()
    }
    factors = [tensor.requires_grad_() for pair in own.values() for tensor in pair]
    optimizer = torch.optim.AdamW(factors, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    batch = rows()
    micro = collate(batch.rows, [[i] for i in range(6)], "cpu")
    for _ in range(2):
        optimizer.zero_grad()
        formed = {
            f"model.{name}.weight": plain.model.get_submodule(name).weight + 4.0 / 2 * (b @ a)
            for name, (a, b) in own.items()
        }
        values, *_ = torch.func.functional_call(plain, formed, (micro,))
        loss, _ = LOSSES["lpo"](values, values.detach(), micro.advantages, micro.mask, micro.units)
        loss.backward()
        optimizer.step()
        trainer.update(batch, LOSSES["lpo"])
    for name, (a, b) in own.items():
        torch.testing.assert_close(layers[name].lora_A["default"].weight, a, rtol=0, atol=1e-6)
        torch.testing.assert_close(layers[name].lora_B["default"].weight, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_resumed_run_is_the_same_bit_for_bit(base: Path, tmp_path: Path, stage: int) -> None:
    config = replace(CONFIG, zero_stage=stage)
    whole = stepped(trainer_of(base, config, seed=3))
    whole.save_trained(tmp_path)
    whole.save_optimizer(tmp_path)
    resumed = trainer_of(base, config, seed=4, adapter=tmp_path)
    resumed.load_optimizer(tmp_path)
    resumed.updates = whole.updates
    stepped(whole)
    stepped(resumed)
    assert torch.equal(logprobs(whole), logprobs(resumed))
    for one, other in zip(whole.master_tensors(), resumed.master_tensors(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3_moe", "ling"])
def test_peft_loads_what_is_written_and_merge_folds_it(family: str, tmp_path: Path) -> None:
    import peft

    base = tmp_path / "base"
    write_model(family, base)
    trainer = stepped(trainer_of(base))
    trainer.save_trained(tmp_path / "adapter")
    expected = logprobs(trainer)
    assert (expected - of_folder(base)).abs().max() > 1e-3
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir() if file.suffix != ".md") == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    inner = load_model(str(base), torch.float32)
    peft.PeftModel.from_pretrained(inner, str(tmp_path / "adapter"))
    with torch.no_grad():
        theirs, *_ = Policy(inner).eval()(collate(rows().rows, [[i] for i in range(6)], "cpu"))
    torch.testing.assert_close(theirs, expected, rtol=0, atol=1e-5)
    fold_adapter(tmp_path / "adapter", "", tmp_path / "merged")
    torch.testing.assert_close(of_folder(tmp_path / "merged"), expected, rtol=0, atol=1e-5)
    synced = dict(trainer.named_weights())
    from safetensors.torch import load_file

    stored = {n: t for f in base.glob("*.safetensors") for n, t in load_file(f).items()}
    assert stored.keys() == synced.keys() | (stored.keys() - synced.keys() if family == "qwen2" else set())
    changed = {name for name, tensor in synced.items() if not torch.equal(tensor, stored[name])}
    assert changed
    assert not any(".experts." in name for name in changed)


def test_the_reference_is_the_base(base: Path) -> None:
    options = LossOptions(kl_coef=0.1)
    trainer = stepped(trainer_of(base, options=options, reference_path=str(base)))
    assert trainer.reference is None
    micro = collate(rows().rows, [[i] for i in range(6)], "cpu")
    torch.testing.assert_close(trainer._reference_logprobs(micro), of_folder(base), rtol=0, atol=1e-6)
    assert (logprobs(trainer) - of_folder(base)).abs().max() > 1e-3
    assert all(p.requires_grad == (".lora_" in name) for name, p in trainer.policy.named_parameters())
    with adapters_off(trainer.policy.model):
        torch.testing.assert_close(logprobs(trainer), of_folder(base), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "target", "says"),
    [
        ("llama", "q_porj", "is in no layer"),
        ("llama", "lm_head", "is the output layer"),
        ("llama", "embed_tokens", "is no linear layer"),
        ("qwen3_moe", "gate_up_proj", "is a stack of experts"),
        ("ling", "experts", "is a stack of experts"),
        ("ling", "gate", "is no linear layer"),
    ],
)
def test_targets_that_cannot_be_adapted_are_refused_by_name(family: str, target: str, says: str) -> None:
    from families import make_model

    with pytest.raises(InputError, match=f"^model.lora.targets: '{target}' {says}"):
        adapted_names(make_model(family), ["o_proj", target] if family != "ling" else [target])


@pytest.mark.parametrize(("fields", "says"), [({"rank": 0}, "rank: 0"), ({"rank": 1, "dropout": 0.1}, "dropout: 0.1")])
def test_numbers_that_make_no_adapter_are_refused(fields: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=f"^model.lora.{says}"):
        LoraConfig(**fields)


def test_the_adapter_names_its_base(base: Path, tmp_path: Path) -> None:
    trainer_of(base).save_trained(tmp_path)
    found = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (found["r"], found["lora_alpha"], found["base_model_name_or_path"]) == (2, 4, str(base))
