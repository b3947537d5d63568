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

from evolpo.model import ModelConfig, model_folder
from evolpo.recipes.runs.launch import rank_environments, run_processes

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
        embedding = whole_embedding * {"bf16": 2, "fp32": 4}[precision] / (1 << 20)
        assert own["peak"] < own["share"] + 2.5 * embedding
        assert own["held"] < own["share"] + 1.5 * embedding
    # From files in bf16 a model in bf16 is mapped: what a rank takes for itself is what the others write into it.
    assert max(one["peak"] for one in shards) < 0.7 * max(one["peak"] for one in whole)


def test_a_rank_that_fails_on_the_way_ends_all(tiny_model_path, tmp_path):
    began = time.monotonic()
    assert run_processes([sys.executable, str(WORKER), "fails", tiny_model_path, "fp32"], 2, str(tmp_path)) == 1
    assert time.monotonic() - began < 240
