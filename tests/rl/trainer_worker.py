"""One rank of a trainer under test: runs the jobs of a JSON file in order and writes what came out.

Usage: python trainer_worker.py JOBS.json FOLDER, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set as by torchrun.
Rank R writes FOLDER/rank_R.json: results by job; rank 0 also writes tensors, FOLDER/JOB.weights.pt and JOB.gradient.pt.
"""

import hashlib
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evolpo import InputError
from evolpo.model import load_model
from evolpo.rl import trainer as trainer_module
from evolpo.rl.data import Batch, Row
from evolpo.rl.losses import LOSSES, LossOptions
from evolpo.rl.trainer import Trainer
from evolpo.rl.training import optimizer_state
from evolpo.rl.training.config import TrainerConfig
from evolpo.rl.training.sharded import load_sharded

GROUPS, SIZE, VOCABULARY = 4, 3, 300
SILENT_GROUP = 1  # its advantages are zero


@dataclass
class Job:
    """One training run."""

    name: str
    model: str
    config: dict
    loss: str = "lpo"
    options: dict = field(default_factory=dict)
    reference: str | None = None
    groups: list[list[int]] = field(default_factory=lambda: [list(range(GROUPS))])
    """Groups of each rank."""
    signal: bool = True
    """False: no row has an advantage."""
    fixed: bool = False
    """True: the same rows in every step."""
    copies: int = 1
    """Every group so many times: the same gradient, from more micro-batches."""
    steps: int = 5
    total: int = 10
    """Optimizer steps that the schedule spans."""
    optimizer_steps: int = 1
    whole: bool = False
    """In stage 3, load the model whole on every rank and leave it to DeepSpeed to shard it."""
    gradient: bool = False
    """Write the gradient of the first optimizer step, by parameter."""
    reads: bool = False
    """Count what the host reads from tensors in forward and backward passes."""
    sums: bool = False
    """Write it as the optimizer's tensors lie."""
    save_after: int = 0
    """Save into `folder` after this step; 0 never."""
    load: bool = False
    """Start from the optimizer state in `folder`, at optimizer step `start`."""
    folder: str = ""
    start: int = 0


def make_rows(step: int = 0) -> list[Row]:
    """All rows of a step: groups of different lengths, two-token units, one group without advantage."""
    generator = torch.Generator().manual_seed(100 + step)

    def integers(low: int, high: int, size: int) -> list[int]:
        return torch.randint(low, high, (size,), generator=generator).tolist()

    rows = []
    for group in range(GROUPS):
        prompt = tuple(integers(0, VOCABULARY, 3 + 2 * group))
        advantages = torch.randn(SIZE, generator=generator).tolist()
        for length, advantage in zip(integers(2, 12, SIZE), advantages, strict=True):
            response = tuple(integers(0, VOCABULARY, length))
            units = tuple(t // 2 for t in range(length))
            signal = 0.0 if group == SILENT_GROUP else advantage
            rows.append(Row(group, prompt, response, units, signal, (-6.0,) * length))
    return rows


def batch_of(job: Job, step: int, rank: int) -> Batch:
    rows = [row for row in make_rows(0 if job.fixed else step) if row.group in job.groups[rank]]
    rows = [replace(row, group=row.group + GROUPS * copy) for copy in range(job.copies) for row in rows]
    if not job.signal:
        rows = [Row(r.group, r.prompt_ids, r.response_ids, r.units, 0.0, r.rollout_logprobs) for r in rows]
    return Batch(tuple(rows))


def full_gradient(trainer: Trainer, beta1: float = 0.9) -> dict[str, torch.Tensor]:
    """The gradient of the first optimizer step, read from Adam's first moment."""
    from deepspeed.utils import safe_get_full_optimizer_state

    if hasattr(trainer.optimizer, "_lazy_init_hp_params_optimizer_state"):
        trainer.optimizer._hp_optimizer_states_linked = False  # DeepSpeed links states before all groups have one
        trainer.optimizer._lazy_init_hp_params_optimizer_state()
    found = {}
    for name, parameter in trainer.policy.model.named_parameters():
        if trainer.config.zero_stage == 0 and trainer.config.precision == "fp32":
            moment = trainer.optimizer.state[parameter]["exp_avg"]
        else:
            moment = safe_get_full_optimizer_state(parameter, "exp_avg")
        found[name] = moment.detach().clone() / (1 - beta1)
    return found


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """Hash of the bytes of tensors."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        state.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in trainer.named_weights()}


def save(trainer: Trainer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    trainer.barrier()
    trainer.save_model(folder)
    trainer.save_optimizer(folder)
    trainer.barrier()


class Reads(TorchDispatchMode):
    """Counts values that the host reads from tensors: on a GPU each waits for all work before it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        if name in ("_local_scalar_dense", "nonzero", "masked_select"):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def counting_reads(trainer: Trainer) -> Reads:
    """Watch the forward and backward passes of all micro-batches from now on."""
    reads, plain = Reads(), trainer._accumulate

    def watched(*args):
        with reads:
            return plain(*args)

    trainer._accumulate = watched
    return reads


def watching_buckets(trainer: Trainer) -> dict[str, int]:
    """What DeepSpeed was given, in numbers, and from now on the most bytes of its buffer for gradients."""
    engine, optimizer, found = trainer.engine, trainer.optimizer, {}
    found["reduce"], found["ahead"] = engine.zero_reduce_bucket_size(), engine.zero_prefetch_bucket_size()
    found["kept"], found["live"] = engine.zero_param_persistence_threshold(), engine.zero_max_live_parameters()

    def look() -> None:
        buffers = [bucket.buffer for bucket in getattr(optimizer, "ipg_buckets", {}).values()]
        tensors = [one for each in buffers for one in (each if isinstance(each, list) else [each])]
        found["bytes"] = max(found.get("bytes", 0), sum(tensor.nbytes for tensor in tensors))

    plain = getattr(optimizer, "setup_buckets", lambda: None)

    def setup_buckets() -> None:
        plain()
        look()

    optimizer.setup_buckets = setup_buckets
    look()
    return found


def run(job: Job, output: Path) -> dict:
    """Train as the job says; returns what the tests look at."""
    trainer_module.load_sharded = load_model if job.whole else load_sharded
    trainer = Trainer(
        job.folder if job.load else job.model,
        TrainerConfig(**job.config),
        total_updates=job.total,
        options=LossOptions(**job.options),
        reference_path=job.reference,
    )
    if job.load:
        trainer.load_optimizer(Path(job.folder))
        trainer.updates = job.start
    reads = counting_reads(trainer) if job.reads else None
    before, buckets = weights_of(trainer), watching_buckets(trainer)
    rows = make_rows()
    result: dict = {"metrics": [], "reference": trainer.reference is not None, "evaluations": []}
    result["evaluations"].append(trainer.logprobs(rows))
    for step in range(job.start, job.start + job.steps):
        update = trainer.update(batch_of(job, step, trainer.rank), LOSSES[job.loss], job.optimizer_steps)
        result["metrics"].append(update.metrics)
        result["evaluations"].append(trainer.logprobs(rows))
        result["old_logprobs"], result["log_ratios"] = update.old_logprobs, update.log_ratios
        if job.gradient and trainer.updates == 1:
            gradient = full_gradient(trainer)
            if trainer.rank == 0:
                torch.save(gradient, output / f"{job.name}.gradient.pt")
        if job.sums:
            moments = optimizer_state.large_tensors(trainer.optimizer, trainer.config.zero_stage)
            torch.save({str(i): m for i, m in enumerate(moments)}, output / f"{job.name}.gradient.pt")
        if job.save_after == step + 1:
            save(trainer, Path(job.folder))
    weights = weights_of(trainer)
    if trainer.rank == 0:
        torch.save(weights, output / f"{job.name}.weights.pt")
    masters = trainer.master_tensors()
    return result | {
        "updates": trainer.updates,
        "buckets": buckets,
        "reference_numel": sum(p.numel() for p in trainer.reference.parameters()) if trainer.reference else 0,
        "reads": reads.found if reads else None,
        "changed": digest(weights) != digest(before),
        "digest": digest(weights),
        "weight_dtypes": sorted({str(w.dtype) for w in weights.values()}),
        "master_dtypes": sorted({str(m.dtype) for m in masters}),
        "master_digest": digest({str(i): m.detach() for i, m in enumerate(masters)}),
    }


def main() -> None:
    jobs, output = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    results = {}
    for job in jobs:
        try:
            results[job["name"]] = run(Job(**job), output)
        except InputError as error:
            results[job["name"]] = {"error": str(error)}
    rank = torch.distributed.get_rank()
    (output / f"rank_{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
