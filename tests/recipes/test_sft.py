"""Supervised fine-tuning for real on a tiny model: a sweep of two seeds, and what it leaves."""

import os
import subprocess
import sys
from pathlib import Path

from evolpo.model import load_model
from evolpo.recipes.dft_data import Example
from evolpo.recipes.sft import encode_example
from evolpo.rl.metrics import read_metrics


def test_the_response_ends_with_the_end_of_sequence(tiny_model_path: str) -> None:
    from evolpo.model import load_tokenizer

    tokenizer = load_tokenizer(tiny_model_path)
    row = encode_example(Example("sys", "1 + 1 =", "The answer is 2."), tokenizer)
    assert row.response_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row.response_ids[:-1]) == "The answer is 2."
    assert tokenizer.decode(row.prompt_ids).endswith("<|assistant|>")
    assert row.advantage == 1.0


def test_a_sweep_runs_each_job_in_a_process_of_its_own(tiny_model_path: str, tmp_path: Path) -> None:
    fields = [
        f"model.path={tiny_model_path}",
        "data.train=[{kind: reasoning_gym, family: chain_sum, size: 60}]",
        "data.heldout_size=10",
        "steps=6",
        "examples_per_step=8",
        "trainer.learning_rate=0.01",
        "trainer.precision=fp32",
    ]
    command = [sys.executable, "-m", "evolpo.recipes.cli", "sft", *fields, "seed=0,1", "--multirun"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    folders = done.stdout.split()
    assert len(set(folders)) == 2
    for folder in folders:
        losses = [row["loss"] for row in read_metrics(tmp_path / folder / ".." / "metrics.jsonl")]
        assert len(losses) == 6
        assert losses[-1] < losses[0] - 0.5
        assert load_model(str(tmp_path / folder)).config.vocab_size == 300
