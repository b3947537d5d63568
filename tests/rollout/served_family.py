"""vLLM on a tiny model of one family, in a process of its own: one engine a process.

Usage: python served_family.py FAMILY FOLDER. Writes FOLDER/result.json: the largest distances in nats of vLLM's
log-probabilities from transformers' own, from a checkpoint that we saved, after new weights, and after the old ones.
"""

import json
import sys
from pathlib import Path

import torch
from families import WINDOW, make_model
from tiny_models import write_tiny_tokenizer

from evolpo.model.names import by_layer, published, save_model
from evolpo.rl.data import Prompt
from evolpo.rollout.engine import RolloutConfig, Sampling
from evolpo.rollout.vllm_engine import VllmEngine

PROMPTS = [Prompt(str(i), "", tuple(range(5 + i, 5 + i + length))) for i, length in enumerate((4, WINDOW, 3 * WINDOW))]
SAMPLING = Sampling(3, 2 * WINDOW, 1.0)


def named_weights(model):
    """What the trainer sends."""
    saved = model.state_dict()
    named = [*model.named_parameters(), *((name, b) for name, b in model.named_buffers() if name in saved)]
    return {k: v.detach() for part in by_layer(named) for k, v in published(model, part)}


def worst_gap(engine, model):
    worst = 0.0
    for group in engine.generate(PROMPTS, SAMPLING, seed=1):
        for response in group.responses:
            start = len(group.prompt.token_ids)
            ids = torch.tensor([group.prompt.token_ids + response.token_ids])
            with torch.no_grad():
                logs = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
            own = logs.gather(1, ids[0, start:, None]).squeeze(1)
            worst = max(worst, (own - torch.tensor(response.logprobs)).abs().max().item())
    return worst


def lose_weights(served):
    """What a sleep of level 2 does on a GPU: no parameter is what it was."""
    for parameter in served.parameters():
        parameter.data.fill_(float("nan"))


def main(family, folder):
    model, other = make_model(family, 0), make_model(family, 1)
    save_model(model, folder / "model", named_weights(model).items())
    write_tiny_tokenizer(folder / "model")
    engine = VllmEngine(str(folder / "model"), RolloutConfig(kv_cache_gb=0.25), "fp32", 256)
    result = {"start": worst_gap(engine, model)}
    before = engine.generate(PROMPTS, SAMPLING, seed=2)
    engine.llm.apply_model(lose_weights)
    engine.update_weights(named_weights(other).items(), version=1)
    result["new"] = worst_gap(engine, other)
    engine.update_weights(named_weights(model).items(), version=2)
    result["old"] = worst_gap(engine, model)
    result["as_before"] = engine.generate(PROMPTS, SAMPLING, seed=2) == before
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
