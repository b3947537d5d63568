"""vLLM for real, on a tiny model: what goes in, what comes out, and new weights."""

import gc
import weakref
from dataclasses import replace

import llvmlite.binding  # noqa: F401 - the engine must start beside numba
import pytest
import torch

from evolpo import InputError
from evolpo.model import load_model
from evolpo.rl.data import Group, Prompt
from evolpo.rl.training.distributed import init_distributed
from evolpo.rollout.engine import RolloutConfig, Sampling
from evolpo.rollout.vllm_engine import CPU_BATCH, VllmEngine

PROMPTS = [Prompt(str(i), "", tuple(range(5 + i, 45 + i))) for i in range(3)]
SAMPLING = Sampling(responses_per_prompt=4, max_response_tokens=12, temperature=0.7)


@pytest.fixture(scope="module")
def engine(served_model_path: str) -> VllmEngine:
    return VllmEngine(served_model_path, RolloutConfig(kv_cache_gb=0.25), "fp32", 256)


def model_logprobs(model: torch.nn.Module, group: Group, temperature: float) -> list[list[float]]:
    """Log-probabilities of the sampled tokens from the model's own full logits."""
    found = []
    for response in group.responses:
        ids = torch.tensor([group.prompt.token_ids + response.token_ids])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0].float() / temperature
        start = len(group.prompt.token_ids)
        table = logits[start - 1 : -1].log_softmax(-1)
        found.append(table.gather(1, ids[0, start:, None]).squeeze(1).tolist())
    return found


def worst_gap(model: torch.nn.Module, groups: list[Group], temperature: float) -> float:
    gaps = [
        abs(ours - theirs)
        for group in groups
        for response, row in zip(group.responses, model_logprobs(model, group, temperature), strict=True)
        for ours, theirs in zip(response.logprobs, row, strict=True)
    ]
    return max(gaps)


def test_groups_hold_what_was_asked_for(engine: VllmEngine) -> None:
    groups = engine.generate(PROMPTS, SAMPLING, seed=1)
    assert [group.prompt for group in groups] == PROMPTS
    for group in groups:
        assert len(group.responses) == 4
        assert len({response.token_ids for response in group.responses}) > 1
        for response in group.responses:
            assert 1 <= len(response.token_ids) <= 12
            assert len(response.logprobs) == len(response.token_ids)
            ended = response.token_ids[-1] == engine.tokenizer.eos_token_id
            assert response.finish_reason == ("stop" if ended else "length")
            assert response.truncated is not ended
            assert response.text == engine.tokenizer.decode(response.token_ids, skip_special_tokens=True)


def test_same_seed_same_responses_whatever_ran_before(engine: VllmEngine) -> None:
    first = engine.generate(PROMPTS, SAMPLING, seed=7)
    engine.generate(PROMPTS[:1], replace(SAMPLING, max_response_tokens=3), seed=8)
    assert engine.generate(PROMPTS, SAMPLING, seed=7) == first
    assert engine.generate(PROMPTS, SAMPLING, seed=8) != first


def test_greedy_takes_the_likeliest_token(engine: VllmEngine, served_model_path: str) -> None:
    model = load_model(served_model_path, torch.float32)
    [group] = engine.generate(PROMPTS[:1], Sampling(1, 8, temperature=0.0), seed=0)
    ids = torch.tensor([group.prompt.token_ids + group.responses[0].token_ids])
    with torch.no_grad():
        likeliest = model(input_ids=ids).logits[0].argmax(-1)
    assert tuple(likeliest[len(group.prompt.token_ids) - 1 : -1].tolist()) == group.responses[0].token_ids


def test_weight_update_in_place(engine: VllmEngine, served_model_path: str) -> None:
    model = load_model(served_model_path, torch.float32)
    before = engine.generate(PROMPTS, SAMPLING, seed=3)
    assert worst_gap(model, before, SAMPLING.temperature) < 1e-4

    engine.update_weights(model.named_parameters(), version=1)  # the same weights: nothing changes
    assert engine.generate(PROMPTS, SAMPLING, seed=3) == before

    original = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    engine.update_weights(model.named_parameters(), version=2)
    after = engine.generate(PROMPTS, SAMPLING, seed=3)
    assert engine.version == 2
    assert after != before
    assert worst_gap(model, after, SAMPLING.temperature) < 1e-4

    engine.update_weights(original.items(), version=3)
    assert engine.generate(PROMPTS, SAMPLING, seed=3) == before


def test_more_seeded_prompts_than_one_pass_takes(engine: VllmEngine) -> None:
    """Cut into chunks, they would make vLLM wind generators back, which generators on a CPU cannot do."""
    prompts = [Prompt(str(i), "", tuple(range(3 + i % 50, 33 + i % 50))) for i in range(CPU_BATCH // 30 + 20)]
    groups = engine.generate(prompts, Sampling(1, 2), seed=0)
    assert [group.prompt for group in groups] == prompts


def test_groups_are_handed_over_as_they_finish(engine: VllmEngine) -> None:
    seen: list[Group] = []
    groups = engine.generate(PROMPTS, SAMPLING, seed=1, done=seen.append)
    assert sorted(seen, key=lambda group: group.prompt.id) == groups
    assert groups == engine.generate(PROMPTS, SAMPLING, seed=1)


def test_several_tokens_may_end_a_response(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = engine.generate(PROMPTS, SAMPLING, seed=1)
    longest = max((r for g in before for r in g.responses), key=lambda r: len(r.token_ids))
    end = longest.token_ids[2]
    monkeypatch.setattr(engine, "ends", [*engine.ends, end])
    after = engine.generate(PROMPTS, SAMPLING, seed=1)
    for old, new in zip((r for g in before for r in g.responses), (r for g in after for r in g.responses), strict=True):
        cut = old.token_ids.index(end) + 1 if end in old.token_ids else len(old.token_ids)
        assert new.token_ids == old.token_ids[:cut]
        assert new.finish_reason == ("stop" if end in old.token_ids else old.finish_reason)
        written = new.token_ids[:-1] if new.token_ids[-1] in engine.ends else new.token_ids
        assert new.text == engine.tokenizer.decode(written, skip_special_tokens=True)


def test_special_tokens_stay_in_the_text_if_asked_for(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "special_tokens", True)
    groups = engine.generate(PROMPTS, replace(SAMPLING, temperature=2.0, max_response_tokens=100), seed=2)
    assert any("<|user|>" in response.text for group in groups for response in group.responses)
    for group in groups:
        for response in group.responses:
            written = response.token_ids[:-1] if response.token_ids[-1] in engine.ends else response.token_ids
            assert response.text == engine.tokenizer.decode(written, skip_special_tokens=False)


def test_a_prompt_with_a_token_that_the_model_has_not_is_refused(engine: VllmEngine) -> None:
    with pytest.raises(InputError, match=r"id 300, but the model has 300 embeddings"):
        engine.generate([Prompt("0", "", (5, 300))], SAMPLING, seed=0)


def test_ranks_outlive_an_engine(engine: VllmEngine, served_model_path: str) -> None:
    """A trainer, and the engine that is there already, go on when another engine is collected."""
    _, world = init_distributed()
    group = torch.distributed.new_group([0])
    passing = VllmEngine(served_model_path, RolloutConfig(kv_cache_gb=0.25), "fp32", 256)
    collected = weakref.ref(passing.llm.llm_engine.engine_core)
    del passing
    gc.collect()
    assert collected() is None
    assert torch.distributed.get_world_size() == world
    assert torch.distributed.get_global_rank(group, 0) == 0
    assert engine.generate(PROMPTS, SAMPLING, seed=1)[0].responses[0].token_ids
