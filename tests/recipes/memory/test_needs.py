"""What a card holds, by hand and against DeepSpeed's own estimators; the cheapest change; what training refuses."""

from dataclasses import replace

import pytest
from transformers import AutoConfig

from evolpo import InputError
from evolpo.recipes.config import TrainConfig
from evolpo.recipes.memory.check import Memory, check_training_memory, setting_of
from evolpo.recipes.memory.mends import FIELDS, smallest_change
from evolpo.recipes.memory.needs import Setting, Work, cached_share, card_needs, shared_memory, states
from evolpo.recipes.memory.sizes import Sizes, cached_numbers, cached_parts, sizes_of
from evolpo.rl.training.config import TrainerConfig
from evolpo.rollout.engine import RolloutConfig
from evolpo.rollout.prompts import DataConfig

WORK = Work(prompt_tokens=100, response_tokens=300, responses=8, tokens=800)
MIXTURE = Sizes(
    total=1000, active=1000, routed=800, embedding=0, attention=0, cached=10, cached_parts=2, adapter=5, hidden=8
)
DENSE = replace(MIXTURE, routed=0)


def setting(**changes):
    return Setting(**{"ranks": 4, "work": WORK} | changes)


def of_states(sizes=DENSE, **changes):
    held = states(sizes, setting(**changes))
    return held["weights"] + held["gradients"] + held["optimizer"]


def test_states_by_hand():
    """1000 parameters on 4 ranks: 16 bytes each; with gradients in fp32 6 + 12 / 4; 2 + 16 / 4; 18 / 4."""
    assert [of_states(zero_stage=stage) for stage in range(4)] == [16000, 9000, 6000, 4500]
    assert of_states(precision="fp32", zero_stage=0) == 16000  # no master weights beside fp32
    assert of_states(precision="fp32", zero_stage=1) == 4000 + 4000 + 12000 / 4
    assert of_states(MIXTURE, expert_parallel=4) == 200 * (6 + 12 / 4) + 200 * (6 + 12)
    assert of_states(lora_rank=8) == 2000 + 40 * 2 + 40 * 4 + 40 * 12 / 4


def test_states_equal_deepspeed_estimators():
    """In stage 2 DeepSpeed counts two bytes more a parameter, for gradients of both kinds on the shards."""
    stage_2 = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2")
    stage_3 = pytest.importorskip("deepspeed.runtime.zero.stage3")
    count = 16_000_000
    sizes = replace(DENSE, total=count)
    options = {"cpu_offload": False, "additional_buffer_factor": 1}
    _, two = stage_2.estimate_zero2_model_states_mem_needs(count, 8, 4, **options)
    assert two == pytest.approx(2 * count + 18 * count / 32, rel=1e-6)
    assert of_states(sizes, ranks=32, zero_stage=2) == pytest.approx(two - 2 * count / 32)
    _, three, *_ = stage_3.estimate_zero3_model_states_mem_needs(
        count, 0, 8, 4, cpu_offload_params=False, zero_init=True, **options
    )
    assert three == pytest.approx(18 * count / 32, rel=1e-6)
    assert of_states(sizes, ranks=32, zero_stage=3) == pytest.approx(three)


def test_both_phases_by_hand():
    needs = card_needs(DENSE, setting(), pass_bytes=70_000)
    assert sum(needs.rollout.values()) == 1000 * (2 + 12 / 4 + 2) + 4e9
    assert sum(needs.training.values()) == 1000 * (2 + 4 + 12 / 4) + 70_000 + 6000 + 2e9
    assert sum(card_needs(DENSE, setting(), pass_bytes=10).training.values()) == 1000 * (9 + 4 / 4) + 6000 + 2e9
    away = card_needs(DENSE, setting(offload="rollout"), pass_bytes=70_000)
    assert sum(away.rollout.values()) == 1000 * (2 + 2) + 4e9
    assert away.training == needs.training
    assert away.machine == 12_000
    always = card_needs(DENSE, setting(offload="always"), pass_bytes=70_000)
    assert sum(always.training.values()) == 1000 * 6 + 70_000 + 6000 + 2e9
    assert card_needs(DENSE, setting(reference=True), 0).rollout["reference model"] == 2000
    assert card_needs(DENSE, setting(reference=True, zero_stage=3), 0).rollout["reference model"] == 2000 / 4
    assert "reference model" not in card_needs(DENSE, setting(reference=True, lora_rank=4), 0).rollout
    assert shared_memory(DENSE, setting(reference=True), 0, 0)["reference model"] == 4 * 2000
    assert "reference model" not in shared_memory(DENSE, setting(reference=True, lora_rank=4), 0, 0)


def test_ranks_that_share_an_engine_hold_a_part_of_it():
    needs = card_needs(DENSE, setting(tensor_parallel=4), pass_bytes=70_000)
    assert needs.rollout["engine's weights"] == 2000 / 4
    assert needs.training == card_needs(DENSE, setting(), pass_bytes=70_000).training
    assert shared_memory(DENSE, setting(tensor_parallel=2), 0, 0)["engine's weights"] == 4 * 2000 / 2
    # Ten numbers of two key-value heads: beyond two ranks each head is held several times.
    assert [cached_share(DENSE, setting(tensor_parallel=n)) for n in (1, 2, 4)] == [10, 5, 5]


def test_on_a_cpu_all_ranks_share():
    parts = shared_memory(DENSE, setting(ranks=2, precision="fp32"), pass_bytes=9000, cache=500)
    assert sum(parts.values()) == 2 * (4000 + 4000 + 12_000 / 2 + 9000 + 4000 + 4000 + 500)


def test_the_copy_of_a_checkpoint_lies_in_the_machine_once():
    for ranks in (1, 4):
        copying = setting(ranks=ranks, background=True)
        assert card_needs(DENSE, copying, 0).machine == 1000 * (12 + 2)
        parts = shared_memory(DENSE, replace(copying, precision="fp32"), 0, 0)
        assert parts["a checkpoint's copy"] == 1000 * (12 + 4)
        assert card_needs(DENSE, replace(copying, offload="rollout"), 0).machine == 1000 * (12 + 12 + 2)
    adapters = card_needs(DENSE, setting(background=True, lora_rank=4), 0).machine
    assert adapters == 4 * DENSE.adapter * 12
    assert change(lambda s: not s.background, background=True) == ("save_background=false",)


def test_a_copy_without_room_beside_cards_is_refused(tiny_model_path):
    size = sizes_of(AutoConfig.from_pretrained(tiny_model_path)).total * 16
    made = config(save_background=True)
    check_training_memory(tiny_model_path, made, 8, Memory(80e9, cards=True, machine=1.1 * size))
    with pytest.raises(InputError, match=r"^trainer.save_background: the copy .* set it to false$"):
        check_training_memory(tiny_model_path, made, 8, Memory(80e9, cards=True, machine=0.8 * size))
    check_training_memory(tiny_model_path, config(), 8, Memory(80e9, cards=True, machine=0.8 * size))


def test_the_cache_of_latent_attention_is_small():
    assert cached_numbers(AutoConfig.for_model("deepseek_v3", num_hidden_layers=2)) == 2 * (512 + 64)
    assert cached_numbers(AutoConfig.for_model("llama", num_hidden_layers=2)) == 2 * 2 * 32 * 128
    assert cached_parts(AutoConfig.for_model("deepseek_v3")) == 1
    assert cached_parts(AutoConfig.for_model("llama", num_key_value_heads=8)) == 8


def change(fits, offered=FIELDS, **changes):
    return smallest_change(setting(**changes), fits, 400, offered)


def test_the_cheapest_change_is_named():
    assert change(lambda s: s.work.tokens <= 400 or s.zero_stage == 3) == ("tokens_per_micro_batch=400",)
    assert change(lambda s: s.zero_stage >= 2 or s.checkpointing) == ("zero_stage=2",)
    assert change(lambda s: s.checkpointing or s.ranks >= 8) == ("activation_checkpointing=true",)
    assert change(lambda s: s.lora_rank > 0 or s.offload == "always") == ("offload=always",)
    assert change(lambda s: s.ranks >= 16) == ("cluster.gpus=16",)
    both = change(lambda s: s.work.tokens <= 400 and s.offload != "none")
    assert both == ("tokens_per_micro_batch=400", "offload=rollout")
    assert change(lambda s: s.ranks > 1000) is None


def test_only_what_is_offered_is_named():
    assert change(lambda s: s.zero_stage >= 2 or s.lora_rank > 0, {"lora_rank"}) == ("lora_rank=16",)
    assert change(lambda s: s.zero_stage >= 3, expert_parallel=2) is None


def config(**trainer):
    return TrainConfig(
        data=DataConfig(max_prompt_tokens=64),
        rollout=RolloutConfig(max_response_tokens=64, kv_cache_gb=0.01),
        trainer=TrainerConfig(precision="fp32", **trainer),
    )


def test_training_is_refused_where_it_does_not_fit(tiny_model_path):
    made = config(tokens_per_micro_batch=4096)
    with pytest.raises(
        InputError, match=r"training .* takes about .* GiB \(.*key-value cache 0.0\), more than"
    ) as error:
        check_training_memory(tiny_model_path, made, 1, Memory(15e6, cards=False))
    assert "the smallest change that fits: trainer.tokens_per_micro_batch=128" in str(error.value)
    assert "\n" not in str(error.value)
    check_training_memory(tiny_model_path, made, 1, Memory(400e6, cards=False))
    with pytest.raises(InputError, match="no setting of the trainer lets it fit"):
        check_training_memory(tiny_model_path, made, 1, Memory(1e6, cards=False))
    with pytest.raises(InputError, match="of a card; no setting"):
        check_training_memory(tiny_model_path, made, 8, Memory(1e9, cards=True))


def test_what_follows_is_taken_and_fits(tiny_model_path):
    check_training_memory(tiny_model_path, config(tokens_per_micro_batch=128), 1, Memory(13e6, cards=False))
    check_training_memory("name/on-a-hub", config(), 1, Memory(1, cards=False))


def test_a_run_is_laid_out_as_configured():
    fields = {"tokens_per_micro_batch": 512, "activation_checkpointing": True, "save_background": True}
    made = setting_of(config(zero_stage=2, **fields), 4)
    assert made == Setting(4, Work(64, 64, 8, 512), "fp32", zero_stage=2, checkpointing=True, background=True)
