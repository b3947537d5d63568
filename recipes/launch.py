"""From a checked configuration to running processes."""

from __future__ import annotations

import os
import subprocess
import sys

from evolpo.model import model_folder
from evolpo.recipes.config import TrainConfig, writable_folder
from evolpo.rewards.stack import RewardStack
from evolpo.rollout.prompts import split_heldout


def local_processes(processes: int) -> int:
    """How many processes to start: as many as asked for, or one a GPU, or one."""
    if processes:
        return processes
    import torch

    return max(torch.cuda.device_count(), 1)


def launched(command: str, processes: int) -> bool:
    """Start one process a device with this command line and wait for them; False if this process is to do the work.

    Under torchrun or the deepspeed launcher (RANK is set) nothing is started.

    Raises:
        SystemExit: the processes failed, with their exit code.
    """
    count = local_processes(processes)
    if count == 1 or "RANK" in os.environ:
        return False
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads_each(count)))}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    code = subprocess.call([*launcher, "-m", "evolpo.recipes.cli", command, *sys.argv[1:]], env=environment)
    if code:
        raise SystemExit(code)
    return True


def threads_each(processes: int) -> int:
    """CPU threads for each of several processes on this machine."""
    return max((os.cpu_count() or 1) // processes, 1)


def dry_run(config: TrainConfig) -> str:
    """Check all that can be checked without loading a model: data, rewards, folders, batch sizes.

    Raises:
        InputError: something does not fit.
    """
    world = int(os.environ.get("WORLD_SIZE", local_processes(config.processes)))
    config.check_ranks(world)
    writable_folder(config.output_dir)
    model = model_folder(config.model)
    train, heldout = split_heldout(config.data, config.seed)
    RewardStack(config.rewards).close()
    return (
        f"model {model}\n{len(train)} problems to train on, {len(heldout)} held out, none shared\n"
        f"{config.describe_batch(world)}\nconfiguration is fine"
    )
