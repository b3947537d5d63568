"""ZeRO stage 3 from shards: the bits of a whole model that is cut, less memory on the way, an end to all if one fails.

Memory is that of SmolLM2-135M on two ranks, each a process of its own.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from families import write_model
from launching import launch
from transformers import AutoConfig

from evolpo.model import DTYPES, ModelConfig, model_folder
from evolpo.recipes.memory.sizes import sizes_of
from evolpo.recipes.runs.launch import rank_environments, run_processes
from evolpo.rl.training.buckets import Buckets, held_bytes

WORKER = Path(__file__).with_name("loading_worker.py")
CONFIG = {"zero_stage": 3, "learning_rate": 1e-3, "weight_decay": 0.1, "tokens_per_micro_batch": 64}
# Tied heads, a buffer in the precision of the weights (Gemma 3), experts that transformers stacks, experts of our own.
KINDS = [("qwen2", "fp32"), ("gemma3", "bf16"), ("mixtral", "bf16"), ("ling", "fp32"), ("ling", "bf16")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """By kind, precision and way of loading: three updates of an odd split over two ranks."""
    base, jobs = tmp_path_factory.mktemp("sharded"), []
    for family, precision in KINDS:
        model = base / family
        if not model.exists():
            model.mkdir()
            write_model(family, model)
        for whole in (False, True):
            job = {"name": f"{family}_{precision}_{whole}", "model": str(model), "whole": whole, "steps": 3}
            jobs.append(job | {"config": CONFIG | {"precision": precision}, "groups": [[3], [0, 1, 2]]})
    return launch(jobs, 2, base / "runs")


@pytest.mark.parametrize(("family", "precision"), KINDS)
def test_training_from_shards_gives_the_bits_of_training_from_a_whole_model(trained, family, precision):
    for rank in trained.ranks:
        shards, whole = (rank[f"{family}_{precision}_{way}"] for way in (False, True))
        assert shards["changed"]
        for name in ("digest", "master_digest", "metrics", "evaluations"):
            assert shards[name] == whole[name]


@pytest.fixture(scope="module")
def penalised(tmp_path_factory):
    """Stages 1 and 3 with a KL penalty, on two ranks of which one has more micro-batches."""
    base = tmp_path_factory.mktemp("penalised")
    for seed, name in enumerate(("model", "reference")):
        (base / name).mkdir()
        write_model("qwen2", base / name, seed)
    fields = {
        "model": str(base / "model"),
        "reference": str(base / "reference"),
        "options": {"kl_coef": 0.1},
        "steps": 3,
    }
    config = CONFIG | {"precision": "fp32"}
    jobs = [
        fields | {"name": f"stage_{stage}", "config": config | {"zero_stage": stage}, "groups": [[3], [0, 1, 2]]}
        for stage in (1, 3)
    ]
    return launch(jobs, 2, base / "runs")


def test_a_reference_in_shards_gives_the_penalty_of_a_whole_one(penalised):
    whole, shards = (penalised.metric(f"stage_{stage}", "kl") for stage in (1, 3))
    assert min(whole) > 1e-3
    assert max(abs(one - other) for one, other in zip(whole, shards, strict=True)) <= 1e-6
    everything, left = (penalised[f"stage_{stage}"]["reference_numel"] for stage in (1, 3))
    assert left < everything / 10  # norms and biases


@pytest.fixture(scope="module")
def bucketed(tmp_path_factory):
    """Two updates in each stage and precision, on one rank."""
    base = tmp_path_factory.mktemp("bucketed")
    write_model("qwen2", base)
    jobs = [
        {
            "name": f"{precision}_{stage}",
            "model": str(base),
            "steps": 2,
            "config": CONFIG | {"precision": precision} | {"zero_stage": stage},
        }
        for precision in DTYPES
        for stage in (1, 2, 3)
    ]
    return launch(jobs, 1, base / "runs"), sizes_of(AutoConfig.from_pretrained(base))


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("precision", DTYPES)
def test_a_plan_counts_the_buckets_that_deepspeed_is_given(bucketed, precision, stage):
    run, sizes = bucketed
    given = run[f"{precision}_{stage}"]["buckets"]
    buckets = Buckets.of(sizes.hidden, sizes.total)
    assert (given["reduce"], given["ahead"], given["kept"], given["live"]) == tuple(buckets.settings().values())
    held = held_bytes(sizes.hidden, sizes.total, stage, DTYPES[precision].itemsize)
    if (precision, stage) == ("bf16", 1):  # no buffer that stays, a copy of what it reduces
        assert given["bytes"] == 0
        assert held["reduce bucket"] == sizes.total * 6
    else:
        assert held["reduce bucket"] == given["bytes"]


def test_buckets_grow_with_the_model():
    """Of Qwen2.5's 0.5 B, 7 B and 32 B, and of a model that is less than a bucket; stage 0 has none."""
    made = [
        Buckets.of(hidden, total) for hidden, total in ((896, 494 * 10**6), (3584, 7616 * 10**6), (5120, 32 * 10**9))
    ]
    assert [one.reduce for one in made] == [1 << 24, 1 << 24, 5120**2]
    assert made[2].ahead == 5120**2 * 9 // 10
    assert made[2].kept == 51_200
    assert Buckets.of(64, 1000).reduce == 1000
    assert held_bytes(5120, 32 * 10**9, 0, 2) == {}
    assert held_bytes(5120, 32 * 10**9, 3, 2) == {"reduce bucket": 2.0 * 5120**2, "gathered weights": 2e9}


def loaded(how: str, precision: str) -> list[dict]:
    """What two ranks say of loading SmolLM2."""
    command = [sys.executable, str(WORKER), how, model_folder(ModelConfig("smollm2")), precision]
    ranks = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for environment in rank_environments(2)
    ]
    said = [rank.communicate(timeout=280)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    return [json.loads(one.split("FOUND ")[1].splitlines()[0]) for one in said]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_rank_holds_its_share_and_on_the_way_little_more(precision):
    shards, whole = loaded("sharded", precision), loaded("whole", precision)
    for own, other in zip(shards, whole, strict=True):
        assert own["digest"] == other["digest"]
        assert own["buffers"] == other["buffers"]
        assert own["tied"]
        assert other["tied"]
        here, share, whole_embedding = own["embedding"]
        assert here == 0
        assert share == whole_embedding / 2
        if (
            precision == "fp32"
        ):  # files in bf16 are mapped for a model in bf16, and what then counts as a rank's own varies
            embedding = whole_embedding * 4 / (1 << 20)
            assert own["peak"] < own["share"] + 2.5 * embedding
            assert own["held"] < own["share"] + 1.5 * embedding
            assert own["peak"] < 0.7 * other["peak"]


def test_a_rank_that_fails_on_the_way_ends_all(tiny_model_path, tmp_path):
    began = time.monotonic()
    assert run_processes([sys.executable, str(WORKER), "fails", tiny_model_path, "fp32"], 2, str(tmp_path)) == 1
    assert time.monotonic() - began < 240
