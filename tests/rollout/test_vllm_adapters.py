"""An adapter alone in vLLM for real: log-probabilities are the trainer's before and after updates, both ways."""

import math
from collections.abc import Sequence

import pytest
import torch
from served_family import lose_weights

from evolpo import InputError
from evolpo.model.lora import LoraConfig
from evolpo.recipes.training.sync import sync
from evolpo.rl.data import Batch, Prompt, Row
from evolpo.rl.losses import LOSSES
from evolpo.rl.trainer import Trainer
from evolpo.rl.training.config import TrainerConfig
from evolpo.rollout.engine import RolloutConfig, Sampling
from evolpo.rollout.vllm_engine import VllmEngine

PROMPTS = [Prompt(str(i), "", tuple(range(5 + i, 75 + i))) for i in range(3)]  # longer than two blocks of the cache
SAMPLING = Sampling(responses_per_prompt=4, max_response_tokens=12)
WORST = 1e-4
UPDATES = 3


def trainer_of(path: str, targets: Sequence[str]) -> Trainer:
    lora = LoraConfig(rank=3, alpha=6.0, targets=list(targets))
    config = TrainerConfig(zero_stage=0, precision="fp32", learning_rate=2e-2)
    return Trainer(path, config, total_updates=UPDATES, lora=lora)


def rows(engine: VllmEngine, seed: int) -> list[Row]:
    return [
        Row(place, group.prompt.token_ids, one.token_ids, (0,) * len(one.token_ids), (-1.0) ** number, one.logprobs)
        for place, group in enumerate(engine.generate(PROMPTS, SAMPLING, seed))
        for number, one in enumerate(group.responses)
    ]


def worst_gap(engine: VllmEngine, trainer: Trainer, seed: int) -> float:
    sampled = rows(engine, seed)
    ours = trainer.logprobs(sampled)
    return max(abs(a - b) for i, row in enumerate(sampled) for a, b in zip(ours[i], row.rollout_logprobs, strict=True))


@pytest.fixture(scope="module")
def engine(served_model_path: str) -> VllmEngine:
    trainer_of(served_model_path, ["all-linear"])  # groups of the trainer are there before the engine
    return VllmEngine(served_model_path, RolloutConfig(kv_cache_gb=0.25), "fp32", 256, adapter_rank=3)


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "down_proj"]])
def test_log_probabilities_are_the_trainers(engine: VllmEngine, served_model_path: str, targets: list[str]) -> None:
    trainer = trainer_of(served_model_path, targets)
    given = sync(engine, trainer, version=0)
    trained = [p for p in trainer.policy.parameters() if p.requires_grad]
    assert given == sum(p.nbytes for p in trained)
    base = [row.rollout_logprobs for row in rows(engine, seed=1)]
    assert worst_gap(engine, trainer, seed=1) < WORST
    for version in range(1, UPDATES + 1):
        trainer.update(Batch(tuple(rows(engine, seed=1))), LOSSES["grpo"])
        assert worst_gap(engine, trainer, seed=1) > 100 * WORST  # the engine still has the old adapter
        sync(engine, trainer, version)
        assert engine.version == version
        assert worst_gap(engine, trainer, seed=1) < WORST
    assert [row.rollout_logprobs for row in rows(engine, seed=1)] != base


def test_the_same_engine_takes_whole_weights(engine: VllmEngine, served_model_path: str) -> None:
    trainer = trainer_of(served_model_path, ["all-linear"])
    trainer.update(Batch(tuple(rows(engine, seed=2))), LOSSES["grpo"])
    engine.update_weights(trainer.named_weights(), version=1)
    assert worst_gap(engine, trainer, seed=2) < WORST


def test_adapters_alone_do_not_bring_back_a_model_that_was_dropped(engine: VllmEngine, served_model_path: str) -> None:
    """What sleep at level 2 would leave behind: hence level 1 beside adapters. Whole weights do bring it back."""
    trainer = trainer_of(served_model_path, ["all-linear"])
    engine.update_weights(trainer.named_weights(), version=0)
    sync(engine, trainer, version=0)
    sampled = rows(engine, seed=3)
    engine.llm.apply_model(lose_weights)
    sync(engine, trainer, version=1)
    assert any(math.isnan(one) for row in rows(engine, seed=3) for one in row.rollout_logprobs)
    engine.update_weights(trainer.named_weights(), version=2)
    sync(engine, trainer, version=3)
    assert rows(engine, seed=3) == sampled
    assert worst_gap(engine, trainer, seed=3) < WORST


def test_an_adapter_of_other_layers_is_refused(engine: VllmEngine) -> None:
    tensors = {f"base_model.model.model.layers.7.mlp.up_proj.lora_{x}.weight": torch.zeros(3, 3) for x in "AB"}
    with pytest.raises(InputError, match=r"rollout\.lora_sync.*layers\.7.*give folded"):
        engine.update_adapter(tensors, {"r": 3, "lora_alpha": 6.0, "target_modules": ["up_proj"]}, version=9)
    assert engine.version != 9
