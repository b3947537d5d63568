"""One rank of an engine that ranks share, or an engine alone: samples, takes new weights and adapters, is broken off.

Usage: python shared_engine.py KIND FOLDER, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set as by torchrun, or
without. FOLDER/model holds a model of that kind, llama or ling; rank R writes FOLDER/rank_R.json. An engine alone
samples for both ranks, one after the other, and writes what each should have got.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from served_family import lose_weights, named_weights, worst_gap
from test_vllm_adapters import trainer_of
from test_vllm_adapters import worst_gap as gap_from_trainer

from evolpo.model import load_model
from evolpo.model.experts import routers
from evolpo.recipes.training.sync import sync
from evolpo.rl.data import Prompt
from evolpo.rl.training.distributed import init_distributed
from evolpo.rollout.engine import Interrupted, RolloutConfig, Sampling
from evolpo.rollout.vllm_engine import VllmEngine

SHARES = [[Prompt(str(i), "", tuple(range(5 + i, 30 + 2 * i))) for i in numbers] for numbers in ((0, 1, 2), (3,))]
SEEDS = [11, 12]
SAMPLING = Sampling(responses_per_prompt=3, max_response_tokens=20)
ADAPTER_RANK = 3


def changed(path):
    """The model with weights that differ from those of its files."""
    model = load_model(path, torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator)
    for router in routers(model):
        router.expert_bias.neg_()
    return model


def sampled(engine, ranks, shares, sampling):
    """What each of these ranks gets, and whether it was told of nothing but its own groups."""
    results = []
    for rank in ranks:
        told = []
        groups = engine.generate(shares[rank], sampling, SEEDS[rank], done=told.append)
        assert sorted(group.prompt.id for group in told) == [prompt.id for prompt in shares[rank]]
        results.append([[asdict(response) for response in group.responses] for group in groups])
    return results


def routes(engine, rank):
    return [route.tolist() for route in engine.routing([prompt.token_ids for prompt in SHARES[rank]])]


def adapters_arrive(engine, path):
    """Distances of log-probabilities from a trainer with adapters, before and after these have gone to the engine."""
    trainer = trainer_of(path, ["all-linear"])
    for parameter in trainer.policy.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05
    before = gap_from_trainer(engine, trainer, 1)
    sync(engine, trainer, version=4)
    return before, gap_from_trainer(engine, trainer, 1)


def broken_off(engine, rank):
    """Whether sampling ends where one rank alone is asked to end."""
    engine.asked = lambda: rank == 1
    try:
        engine.generate(SHARES[rank], SAMPLING, SEEDS[rank])
    except Interrupted:
        return True
    return False


def main(kind, folder):
    path, world = str(folder / "model"), int(os.environ.get("WORLD_SIZE", "1"))
    rank = init_distributed()[0] if world > 1 else 0
    ranks = [rank] if world > 1 else [0, 1]
    config = RolloutConfig(kv_cache_gb=0.25, tensor_parallel=world)
    engine = VllmEngine(path, config, "fp32", 256, adapter_rank=ADAPTER_RANK if kind == "llama" else 0)
    result = {"start": sampled(engine, ranks, SHARES, SAMPLING)}
    result["greedy"] = sampled(engine, ranks, SHARES, Sampling(1, 12, 0.0))
    result["one rank alone"] = sampled(engine, ranks, [SHARES[0], []], SAMPLING)
    result["routes"] = [routes(engine, one) for one in ranks]
    model, other = load_model(path, torch.float32).eval(), changed(path)
    result["gaps"] = {"start": worst_gap(engine, model), "not yet": worst_gap(engine, other)}
    engine.llm.apply_model(lose_weights)
    engine.update_weights(named_weights(other).items(), version=1)
    result["gaps"]["new"] = worst_gap(engine, other)
    result["new"] = sampled(engine, ranks, SHARES, SAMPLING)
    engine.update_weights(named_weights(model).items(), version=2)
    result["as before"] = sampled(engine, ranks, SHARES, SAMPLING) == result["start"]
    if kind == "llama" and world > 1:
        result["gaps"]["before adapters"], result["gaps"]["adapters"] = adapters_arrive(engine, path)
    if world > 1:
        result["broken off"] = broken_off(engine, rank)
    (folder / f"rank_{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
