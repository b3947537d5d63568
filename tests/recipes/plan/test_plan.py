"""`evolpo plan`: figures by hand, against DeepSpeed's own estimators, and clear errors."""

import pytest

from evolpo import InputError
from evolpo.recipes.plan.plan import ClusterConfig, PlanConfig, PlanModelConfig, lines, main, plan


def make(name="ling_mini", gpus=8, **changes):
    return PlanConfig(PlanModelConfig(name), ClusterConfig(gpus=gpus), **changes)


def test_ling_1t_is_counted_without_being_loaded():
    made = plan(make("ling_1t", gpus=512, expert_parallel=64))
    assert made.sizes.total == pytest.approx(999.3e9, rel=0.005)
    assert made.sizes.active == pytest.approx(50.9e9, rel=0.01)
    assert made.sync_gb == pytest.approx(2 * made.sizes.total / 1e9)
    assert made.memory_gb[3] == pytest.approx(18 * made.sizes.total / 512 / 1e9)
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
    assert "ZeRO-3 model states 36.6 GB a GPU: fits" in text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: make("ling_maxi"), "model.name: 'ling_maxi' is none of ling_mini"),
        (lambda: make(expert_parallel=3), "expert_parallel: 3 does not divide cluster.gpus=8"),
        (lambda: make(gpus=768, expert_parallel=768), "expert_parallel: 768 does not divide num_experts=256"),
        (lambda: make(tensor_parallel=3), "tensor_parallel: 3 does not divide cluster.gpus=8"),
        (
            lambda: make("qwen2_5_7b", tensor_parallel=8),
            "tensor_parallel: 8 does not divide the model's num_attention_heads=28; 4 does",
        ),
        (lambda: make(mfu=0), "mfu: 0 is no share"),
        (lambda: make(precision="fp4"), "precision: 'fp4' is none of"),
        (lambda: make(gpus=0), "cluster.gpus: 0 is not positive"),
        (lambda: make(zero_stage=4), "zero_stage: 4 is none of 0, 1, 2, 3"),
        (lambda: make(offload="some"), "offload: 'some' is none of none, rollout, always"),
        (lambda: make(tokens_per_micro_batch=100), "tokens_per_micro_batch: 100 holds no prompt and response"),
        (lambda: make(lora_rank=-1), "lora_rank: -1 is negative"),
        (lambda: PlanConfig(PlanModelConfig(path="/nowhere/model")), "model.path: /nowhere/model"),
    ],
)
def test_mistakes_are_one_line(config, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")) as error:
        plan(config())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "billions"),
    # Parameters by the Qwen2.5 report (arXiv 2412.15115), table 1 and model cards.
    [
        ("0_5b", 0.49),
        ("1_5b", 1.54),
        ("7b", 7.61),
        ("14b", 14.7),
        ("32b", 32.5),
    ],
)
def test_published_models_have_the_sizes_that_are_published(name, billions):
    assert plan(make(f"qwen2_5_{name}")).sizes.total / 1e9 == pytest.approx(billions, rel=0.01)


def said(capsys, **fields):
    main(make("qwen2_5_7b", **fields))
    return capsys.readouterr().out


def test_a_7b_model_on_eight_cards(capsys):
    """Figures by the formulas of `recipes/memory/needs.py`, by hand: 7.616 B parameters."""
    text = said(capsys)
    assert "rollout             46.1 of 80 GB at the least: fits" in text  # 7.616 * (2 + 12 / 8 + 2) + 4 + 0.2 cache
    assert "smallest change" not in text
    assert "145 responses of the longest kind at once" in text


def test_cards_that_share_an_engine_share_its_weights_and_its_cache(capsys):
    """Four key-value heads: 4 cards divide them, and 7.616 * 2 / 4 of weights."""
    text = said(capsys, tensor_parallel=4)
    assert "ZeRO-1, micro-batches of 4096 tokens, activations recomputed, engines of 4 cards" in text
    assert "rollout             34.5 of 80 GB at the least: fits" in text  # 7.616 * (2 + 12 / 8 + 2 / 4) + 4 + 0.06
    assert "775 responses of the longest kind at once in the engine of 4 cards" in text


def test_a_7b_model_on_one_card_does_not_fit_and_what_does(capsys):
    text = said(capsys, gpus=1)
    assert "rollout             126.1 of 80 GB at the least: does not fit" in text
    assert "smallest change     offload=always" in text
    assert "fits" in said(capsys, gpus=1, offload="always")
    assert "smallest change" not in said(capsys, gpus=1, lora_rank=16)
