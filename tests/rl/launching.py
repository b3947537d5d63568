"""Runs jobs of trainer_worker.py, each rank a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from evolpo.recipes.runs.launch import free_port

WORKER = Path(__file__).with_name("trainer_worker.py")


@dataclass
class Run:
    """Results of the jobs of one launch, by rank."""

    folder: Path
    ranks: list[dict]

    def __getitem__(self, job):
        return self.ranks[0][job]

    def metric(self, job, name):
        return [metrics[name] for metrics in self[job]["metrics"]]

    def tensors(self, job, kind):
        return torch.load(self.folder / f"{job}.{kind}.pt")


def launch(jobs, world, folder, worker=WORKER):
    """Run jobs on `world` ranks, each a process of its own."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs))
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
    processes = []
    for rank in range(world):
        with (folder / f"log_{rank}").open("wb") as log:
            command = [sys.executable, str(worker), str(folder / "jobs.json"), str(folder)]
            environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    logs = "\n".join((folder / f"log_{rank}").read_text()[-3000:] for rank in range(world))
    assert codes == [0] * world, logs
    return Run(folder, [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(world)])
