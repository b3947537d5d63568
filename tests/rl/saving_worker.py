"""One rank that saves: now and beside a step, on a disk that refuses, and where a step fails meanwhile.

Usage as of trainer_worker.py: python saving_worker.py JOBS.json FOLDER; a job is the model and the ZeRO stage.
"""

import json
import resource
import sys
import threading
import time
from pathlib import Path

import torch
from trainer_worker import Job, batch_of

from evolpo.model import shards
from evolpo.rl.checkpoint import CheckpointError, list_checkpoints
from evolpo.rl.losses import LOSSES
from evolpo.rl.saving import Saver
from evolpo.rl.trainer import Trainer
from evolpo.rl.training.config import TrainerConfig

SMALL = 20_000
REFUSED = 10_000
"""Bytes: no file of weights is as small."""


def beside_a_step(trainer: Trainer, saver: Saver, train: object) -> dict:
    """Save step 1 while the next step runs: nothing is written before that has ended."""
    trained, plain, waited = threading.Event(), shards._write, []

    def late(held: dict, file: Path) -> None:
        waited.append(trained.wait(timeout=1000))
        plain(held, file)

    shards._write = late
    saver.save(1, {"step": 1})
    train(1)
    saver.check()
    trained.set()
    saver.wait()
    shards._write = plain
    return {"waited": waited}


def refused(saver: Saver, rank: int, background: bool) -> str:
    """What is said where the disk refuses rank 0's files; the ranks still meet."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (REFUSED, hard))
    try:
        saver.save(2, {"step": 2})
        while background:
            saver.check()
            time.sleep(0.01)
    except CheckpointError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return ""


def main() -> None:
    [job], output = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    shards.SHARD_BYTES = SMALL
    config = TrainerConfig(zero_stage=job["stage"], precision="fp32", learning_rate=0.01)
    trainer = Trainer(job["model"], config, total_updates=10)
    every = Job("", "", {}, groups=[[0, 1], [2, 3]] if trainer.world == 2 else [[0, 1, 2, 3]])

    def train(step: int) -> None:
        trainer.update(batch_of(every, step, trainer.rank), LOSSES["lpo"])

    train(0)
    found: dict = {}
    notes: list[str] = []
    with Saver(output / "now", trainer, notes.append) as saver:
        saver.save(1, {"step": 1})
    trainer.config.save_background = True
    with Saver(output / "beside", trainer, notes.append) as saver:
        found |= beside_a_step(trainer, saver, train)
        found["refused_beside"] = refused(saver, trainer.rank, True)
    trainer.config.save_background = False
    with Saver(output / "now", trainer, notes.append) as saver:
        found["refused_now"] = refused(saver, trainer.rank, False)
    trainer.config.save_background = True
    try:
        with Saver(output / "failed", trainer, notes.append) as saver:
            saver.save(3, {"step": 3})
            raise ValueError("a step fails")
    except ValueError:
        found["failed"] = [step for step, _ in list_checkpoints(output / "failed")]
    trainer.barrier()
    (output / f"rank_{trainer.rank}.json").write_text(json.dumps(found | {"notes": notes}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
