"""vLLM's own Ling 2.0 model against ours: log-probabilities, greedy tokens, and new weights for experts and biases."""

import pytest
import torch
from tiny_models import VOCABULARY, write_tiny_tokenizer

from evolpo.model import load_model
from evolpo.model.config import preset
from evolpo.model.experts import routers
from evolpo.model.ling import BailingMoeV2ForCausalLM
from evolpo.model.weights import published
from evolpo.rl.data import Prompt
from evolpo.rollout.engine import RolloutConfig, Sampling
from evolpo.rollout.vllm_engine import VllmEngine

PROMPTS = [Prompt(str(i), "", tuple(range(5 + i, 25 + 9 * i))) for i in range(3)]
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 600_000.0,
    "partial_rotary_factor": 0.5,
}


def make_model(seed: int) -> BailingMoeV2ForCausalLM:
    """The shape of ling_nano with an MTP layer, biases of experts that matter, and YaRN."""
    torch.manual_seed(seed)
    config = preset(
        "ling_nano", vocab_size=VOCABULARY, num_hidden_layers=3, initializer_range=0.05, rope_parameters=YARN
    )
    model = BailingMoeV2ForCausalLM(config).eval()
    for router in routers(model):
        router.expert_bias.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def model() -> BailingMoeV2ForCausalLM:
    return make_model(0)


@pytest.fixture(scope="module")
def engine(model: BailingMoeV2ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> VllmEngine:
    folder = tmp_path_factory.mktemp("ling")
    model.save_pretrained(folder)
    write_tiny_tokenizer(folder)
    assert len(load_model(str(folder), torch.float32).model.layers) == 4
    return VllmEngine(str(folder), RolloutConfig(kv_cache_gb=0.25), "fp32", 256)


def worst_gap(engine: VllmEngine, model: BailingMoeV2ForCausalLM) -> float:
    worst = 0.0
    for group in engine.generate(PROMPTS, Sampling(3, 24, 1.0), seed=1):
        for response in group.responses:
            start = len(group.prompt.token_ids)
            ids = torch.tensor([group.prompt.token_ids + response.token_ids])
            with torch.no_grad():
                logs = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
            own = logs.gather(1, ids[0, start:, None]).squeeze(1)
            worst = max(worst, (own - torch.tensor(response.logprobs)).abs().max().item())
    return worst


def as_published(model: BailingMoeV2ForCausalLM) -> list[tuple[str, torch.Tensor]]:
    return [pair for name, tensor in model.state_dict().items() for pair in published(name, tensor)]


def test_log_probabilities_agree(engine: VllmEngine, model: BailingMoeV2ForCausalLM) -> None:
    assert worst_gap(engine, model) < 1e-4


def test_greedy_tokens_agree(engine: VllmEngine, model: BailingMoeV2ForCausalLM) -> None:
    for group in engine.generate(PROMPTS, Sampling(1, 24, 0.0), seed=0):
        ids = torch.tensor([group.prompt.token_ids])
        [whole] = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False).tolist()
        assert tuple(whole[ids.shape[1] :]) == group.responses[0].token_ids


def test_new_weights_arrive_with_experts_and_biases(engine: VllmEngine, model: BailingMoeV2ForCausalLM) -> None:
    before = engine.generate(PROMPTS, Sampling(3, 24, 1.0), seed=1)
    engine.update_weights(as_published(model), version=1)
    assert (
        engine.generate(PROMPTS, Sampling(3, 24, 1.0), seed=1) == before
    )  # the same weights: the same to the last bit
    other = make_model(1)
    engine.update_weights(as_published(other), version=2)
    assert worst_gap(engine, other) < 1e-4
    for router in routers(other):
        router.expert_bias.neg_()
    engine.update_weights(as_published(other), version=3)
    assert worst_gap(engine, other) < 1e-4
    engine.update_weights(as_published(model), version=4)
    assert worst_gap(engine, model) < 1e-4


def chosen_experts(model: BailingMoeV2ForCausalLM, ids: tuple[int, ...]) -> torch.Tensor:
    """[T, layers, k] by our own model."""
    chosen: list[torch.Tensor] = []
    hooks = [router.register_forward_hook(lambda _, __, result: chosen.append(result[0])) for router in routers(model)]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return torch.stack(chosen, dim=1)


def test_the_engine_tells_which_experts_it_chose(engine: VllmEngine, model: BailingMoeV2ForCausalLM) -> None:
    engine.update_weights(as_published(model), version=5)
    sequences = [prompt.token_ids for prompt in PROMPTS]
    for ids, theirs in zip(sequences, engine.routing(sequences), strict=True):
        ours = chosen_experts(model, ids)
        assert theirs.shape == ours.shape == (len(ids), 2, 4)
        assert torch.equal(theirs.sort(dim=-1).values.long(), ours.sort(dim=-1).values)


def test_asking_for_the_routing_leaves_no_trace(engine: VllmEngine) -> None:
    before = engine.generate(PROMPTS, Sampling(2, 8, 1.0), seed=3)
    engine.routing([PROMPTS[0].token_ids])
    assert engine.generate(PROMPTS, Sampling(2, 8, 1.0), seed=3) == before
