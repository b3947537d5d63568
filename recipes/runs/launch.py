"""From a checked configuration to running processes."""

from __future__ import annotations

import os
import subprocess
import sys

from evolpo.model import model_folder
from evolpo.recipes.config import TrainConfig
from evolpo.recipes.runs.context import check_context
from evolpo.recipes.runs.fit import check_levels, check_rewards
from evolpo.recipes.runs.folder import writable_folder
from evolpo.rewards.stack import RewardStack
from evolpo.rollout.prompts import split_heldout


def local_processes(processes: int) -> int:
    """How many processes to start: as many as asked for, or one a GPU, or one."""
    if processes:
        return processes
    import torch

    return max(torch.cuda.device_count(), 1)


def launched(command: str, processes: int = 1) -> bool:
    """Run this command in processes of its own and wait for them; False if this process is to do the work.

    Several devices get a process each. A job of `--multirun` gets its own too: a process holds one engine in its life.
    Under torchrun or the deepspeed launcher (RANK is set) nothing is started.

    Raises:
        SystemExit: the processes failed, with their exit code.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if "RANK" in os.environ:
        return False
    count = local_processes(processes)
    job = HydraConfig.get()
    sweeping = job.mode == RunMode.MULTIRUN
    if count == 1 and not sweeping:
        return False
    environment = dict(os.environ)
    launcher = [sys.executable]
    if count > 1:
        environment.setdefault("OMP_NUM_THREADS", str(threads_each(count)))
        # By address: torchrun waits for minutes where the machine's own name does not resolve.
        launcher += ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        launcher += ["--nproc-per-node", str(count)]
    arguments = job.overrides.task if sweeping else sys.argv[1:]
    code = subprocess.call([*launcher, "-m", "evolpo.recipes.cli", command, *arguments], env=environment)
    if code:
        raise SystemExit(code)
    return True


def threads_each(processes: int) -> int:
    """CPU threads for each of several processes on this machine."""
    return max((os.cpu_count() or 1) // processes, 1)


def worker_environment(worker: int) -> dict[str, str]:
    """The environment of one of several single processes on this machine: of several GPUs each gets one, in turn."""
    import torch

    environment = dict(os.environ)
    if (count := torch.cuda.device_count()) > 1:
        names = environment.get("CUDA_VISIBLE_DEVICES", "") or ",".join(map(str, range(count)))
        environment["CUDA_VISIBLE_DEVICES"] = names.split(",")[worker % count]
    return environment


def dry_run(config: TrainConfig) -> str:
    """Check all that can be checked without loading a model: data, rewards, folders, batch sizes.

    Raises:
        InputError: something does not fit.
    """
    world = int(os.environ.get("WORLD_SIZE", local_processes(config.processes)))
    config.check_ranks(world)
    writable_folder(config.output_dir)
    model = model_folder(config.model)
    check_context(model, config.data, config.rollout)
    notes: list[str] = []
    train, heldout = split_heldout(config.data, config.seed, notes.append)
    check_levels(config.curriculum, train, config.rollout.max_response_tokens, config.steps)
    rewards = RewardStack(config.rewards)
    try:
        check_rewards(rewards, config.data, train, heldout)
    finally:
        rewards.close()
    lines = "\n".join(notes)
    return (
        f"model {model}\n{lines}\n{len(train)} problems to train on, {len(heldout)} held out, none shared\n"
        f"{config.describe_batch(world)}\nconfiguration is fine"
    )
