"""Commands in processes of their own: started, waited for, killed; and what of a run a clock does not decide."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        arguments, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def tiny_run(model: str, name: str, *extra: str) -> list[str]:
    """A training run of a few seconds with the reward `plugin:vowels`, which stands beside it; `extra` fields win."""
    fields = [
        f"name={name}",
        f"model.path={model}",
        "prompts_per_step=2",
        "responses_per_prompt=4",
        "data.train=[{kind: reasoning_gym, family: chain_sum, size: 40, difficulty: easy}]",
        "data.heldout_size=6",
        "data.max_prompt_tokens=200",
        "rollout.kv_cache_gb=0.25",
        "rewards.components=[{use: 'plugin:vowels'}]",
        "trainer.learning_rate=0.01",
        "trainer.precision=fp32",
        "trainer.tokens_per_micro_batch=256",
        "trainer.save_every=1",
        "trainer.keep_checkpoints=0",
    ]
    return [sys.executable, "-m", "evolpo.recipes.cli", "train", *fields, *extra]


def finish(process: subprocess.Popen[str], code: int = 0, timeout: float = 240) -> tuple[str, str]:
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == code, err[-3000:]
    return out, err


def run_folder(folder: Path, name: str) -> Path:
    [run] = (folder / "outputs" / name).iterdir()
    return run


def kill_while_saving(process: subprocess.Popen[str], folder: Path, name: str, step: int) -> None:
    """kill -9 at the moment at which the checkpoint of a step is being written."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if list(folder.glob(f"outputs/{name}/*/checkpoints/.step_{step}.partial/*")):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.002)
    raise AssertionError("no checkpoint was begun")


def timeless(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Metrics without what a clock measured."""
    clocks = ("seconds", "time", "tokens_per_s", "sync/")
    return [{k: v for k, v in row.items() if not k.startswith(clocks) and "seconds" not in k} for row in rows]
