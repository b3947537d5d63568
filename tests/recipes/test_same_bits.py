"""Three runs of one seed, each with threads that allocate and compute beside it, end in the same bits."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import finish, run_folder, timeless

from evolpo.rl.logs.metrics import read_metrics
from evolpo.rl.logs.samples import read_samples

STEPS = 12
# Rewards are imported by the process that trains: what they do lies beside the loop, as a reward service's threads do.
NOISY_REWARD = """
import atexit, random, threading, time
import torch
from evolpo.rewards import Sample, sample_reward

over = threading.Event()

def disturb():
    kept, luck = [], random.Random()
    while not over.is_set():
        size = luck.randint(1, 5000)
        kept += [bytes(size), torch.empty(size), torch.randn(30, 30) @ torch.randn(30, 30)]
        kept = [one for one in kept[-300:] if luck.random() < 0.9]
        time.sleep(luck.random() / 200)

def end():
    over.set()
    [thread.join() for thread in threads]

threads = [threading.Thread(target=disturb, daemon=True) for _ in range(3)]
[thread.start() for thread in threads]
atexit.register(end)

@sample_reward
def vowels(sample: Sample) -> float:
    return sum(letter in "aeiou" for letter in sample.text) / max(len(sample.text), 1)
"""


def start(name: str, model: str, folder: Path) -> subprocess.Popen[str]:
    fields = [
        f"name={name}",
        f"model.path={model}",
        f"steps={STEPS}",
        "prompts_per_step=3",
        "responses_per_prompt=24",  # enough that gradients of a prompt's last token come from both threads
        "data.train=[{kind: reasoning_gym, family: chain_sum, size: 40, difficulty: easy}]",
        "data.heldout_size=4",
        "data.max_prompt_tokens=200",
        "rollout.max_response_tokens=12",
        "rollout.kv_cache_gb=0.25",
        "rewards.components=[{use: 'plugin:vowels'}]",
        "trainer.learning_rate=0.01",
        "trainer.precision=fp32",
        "trainer.tokens_per_micro_batch=4096",
        "logger.tensorboard=false",
        "logger.samples_per_step=72",
    ]
    environment = {name: value for name, value in os.environ.items() if name not in ("MKL_CBWR", "PYTHONHASHSEED")}
    command = [sys.executable, "-m", "evolpo.recipes.cli", "train", *fields]
    pipe = subprocess.PIPE
    several = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}  # three runs share the cores
    return subprocess.Popen(command, cwd=folder, env=environment | several, text=True, stdout=pipe, stderr=pipe)


@pytest.mark.timeout(600)
def test_three_runs_of_one_seed_are_equal_to_the_last_bit(tmp_path: Path, served_model_path: str) -> None:
    (tmp_path / "plugin.py").write_text(NOISY_REWARD)
    names = ["first", "second", "third"]
    for process in [start(name, served_model_path, tmp_path) for name in names]:
        finish(process)
    runs = [run_folder(tmp_path, name) for name in names]
    metrics = [timeless(read_metrics(run / "metrics.jsonl")) for run in runs]
    assert metrics[0][-1]["grad_norm"] > 0
    assert metrics[0] == metrics[1] == metrics[2]
    samples = [read_samples(run / "samples.parquet") for run in runs]
    assert samples[0] == samples[1] == samples[2]
    for file in ("model.safetensors", "optimizer/rank_0.safetensors"):
        assert len({digest(run / "checkpoints" / f"step_{STEPS}" / file) for run in runs}) == 1, file


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
