"""One engine over two ranks, for real: tokens are those of an engine alone, weights and adapters reach both parts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_vllm_ling import make_model
from tiny_models import write_tiny_model, write_tiny_tokenizer

from evolpo.recipes.runs.launch import rank_environments

WORKER = Path(__file__).with_name("shared_engine.py")


def write_model(kind, folder):
    if kind == "llama":
        write_tiny_model(folder, hidden_size=64, intermediate_size=96, num_attention_heads=2, tie_word_embeddings=True)
    else:
        make_model(0).save_pretrained(folder)
        write_tiny_tokenizer(folder)


def run(kind, folder, ranks):
    """What the ranks wrote."""
    paths = [str(WORKER.parent), str(WORKER.parent.parent), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), kind, str(folder)],
            env={**environment, **own},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for environment in rank_environments(ranks)
    ]
    try:
        for process in processes:
            out, _ = process.communicate(timeout=500)
            assert process.returncode == 0, out[-3000:]
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["llama", "ling"])
def test_an_engine_over_two_ranks_is_one_engine(kind, tmp_path):
    write_model(kind, tmp_path / "model")
    [alone] = run(kind, tmp_path, 1)
    both = run(kind, tmp_path, 2)
    for name in ("start", "greedy", "one rank alone", "new"):
        for rank, part in enumerate(both):
            [ours], theirs = part[name], alone[name][rank]
            assert len(ours) == len(theirs)
            for one, other in ((a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)):
                assert one["token_ids"] == other["token_ids"], (name, rank)
                assert one["logprobs"] == pytest.approx(other["logprobs"], abs=1e-4)
                assert one["text"] == other["text"]
    assert [part["routes"][0] for part in both] == alone["routes"]
    assert bool(alone["routes"][0]) == (kind == "ling")
    for part in both:
        gaps = part["gaps"]
        assert max(gaps["start"], gaps["new"], gaps.get("adapters", 0.0)) < 1e-4, gaps
        assert min(gaps["not yet"], gaps.get("before adapters", 1.0)) > 1e-2, gaps
        assert part["as before"]
        assert part["broken off"]
