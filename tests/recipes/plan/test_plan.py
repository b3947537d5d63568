"""`evolpo plan`: figures by hand, against DeepSpeed's own estimators, and clear errors."""

import pytest

from evolpo import InputError
from evolpo.recipes.plan.plan import ClusterConfig, PlanConfig, PlanModelConfig, lines, plan, state_bytes


def make(name="ling_mini", gpus=8, **changes):
    return PlanConfig(PlanModelConfig(name), ClusterConfig(gpus=gpus), **changes)


def test_states_by_hand():
    """1000 parameters on 4 ranks: 16 bytes each; 4 + 12 / 4; 2 + 14 / 4; 16 / 4."""
    assert [state_bytes(stage, 1000, 4) for stage in range(4)] == [16000, 7000, 5500, 4000]


def test_states_equal_deepspeed_estimators():
    """DeepSpeed counts four bytes more a parameter for gradients, which it also keeps in fp32, on the shards."""
    stage_2 = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2")
    stage_3 = pytest.importorskip("deepspeed.runtime.zero.stage3")
    count = 16_000_000
    options = {"cpu_offload": False, "additional_buffer_factor": 1}
    _, two = stage_2.estimate_zero2_model_states_mem_needs(count, 8, 4, **options)
    assert two == pytest.approx(2 * count + 18 * count / 32, rel=1e-6)
    assert state_bytes(2, count, 32) == pytest.approx(two - 4 * count / 32)
    _, three, *_ = stage_3.estimate_zero3_model_states_mem_needs(
        count, 0, 8, 4, cpu_offload_params=False, zero_init=True, **options
    )
    assert three == pytest.approx(18 * count / 32, rel=1e-6)
    assert state_bytes(3, count, 32) == pytest.approx(three - 2 * count / 32)


def test_ling_1t_is_counted_without_being_loaded():
    made = plan(make("ling_1t", gpus=512, expert_parallel=64))
    assert made.sizes.total == pytest.approx(999.3e9, rel=0.005)
    assert made.sizes.active == pytest.approx(50.9e9, rel=0.01)
    assert made.sync_gb == pytest.approx(2 * made.sizes.total / 1e9)
    assert made.memory_gb[3] == pytest.approx(16 * made.sizes.total / 512 / 1e9)
    assert made.memory_gb[0] > made.memory_gb[1] > made.memory_gb[2] > made.memory_gb[3]
    multiplied = made.sizes.active - made.sizes.embedding
    attention = 80 * 64 * 128
    assert made.flops_per_token == 6 * multiplied + 12 * attention * 2048
    assert made.tokens_per_s == pytest.approx(512 * 989e12 * 0.4 / made.flops_per_token)


def test_experts_spread_and_fp8_doubles_the_peak():
    alone, spread = plan(make()), plan(make(expert_parallel=8))
    dense = alone.sizes.total - alone.sizes.routed
    assert spread.memory_gb[0] == pytest.approx(16 * (dense + alone.sizes.routed / 8) / 1e9)
    assert spread.memory_gb[3] == pytest.approx(alone.memory_gb[3])
    assert plan(make(precision="fp8")).tokens_per_s == 2 * alone.tokens_per_s


def test_dense_models_of_a_folder_are_planned(tiny_model_path):
    made = plan(PlanConfig(PlanModelConfig(path=tiny_model_path)))
    assert made.sizes.total == made.sizes.active > 0
    assert made.sizes.routed == 0


def test_the_table_says_what_fits():
    config = make(gpus=8)
    text = "\n".join(lines(config, plan(config)))
    assert "ling_mini on 8 GPUs of 80 GB" in text
    assert "ZeRO-0 model states 260.1 GB a GPU: does not fit" in text
    assert "ZeRO-3 model states 32.5 GB a GPU: fits" in text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: make("ling_maxi"), "model.name: 'ling_maxi' is none of ling_mini"),
        (lambda: make(expert_parallel=3), "expert_parallel: 3 does not divide cluster.gpus=8"),
        (lambda: make(gpus=768, expert_parallel=768), "expert_parallel: 768 does not divide num_experts=256"),
        (lambda: make(mfu=0), "mfu: 0 is no share"),
        (lambda: make(precision="fp4"), "precision: 'fp4' is none of"),
        (lambda: make(gpus=0), "cluster.gpus: 0 is not positive"),
        (lambda: PlanConfig(PlanModelConfig(path="/nowhere/model")), "model.path: /nowhere/model"),
    ],
)
def test_mistakes_are_one_line(config, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")) as error:
        plan(config())
    assert "\n" not in str(error.value)
