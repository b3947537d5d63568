"""`evolpo merge`: several checkpoints of a run become one model, judged by their held-out losses; or adapters do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from evolpo import InputError
from evolpo.model import DTYPES, load_model, load_tokenizer
from evolpo.model.files import read_object
from evolpo.model.lora import is_adapter
from evolpo.recipes.config import SftConfig
from evolpo.recipes.runs.damage import check_model_whole
from evolpo.recipes.runs.resume import saved_config
from evolpo.recipes.sft import encode_example, heldout_losses, load_examples
from evolpo.rl.batching import collate, make_micro_batches
from evolpo.rl.checkpoint import step_folders
from evolpo.rl.data import Row
from evolpo.rl.fold import fold_adapter
from evolpo.rl.logprobs import Policy, check_supported
from evolpo.rl.logs.files import write_json
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress
from evolpo.rl.merge import checkpoint_weights, merge
from evolpo.rl.schedule import DECAYS
from evolpo.rl.training.config import TrainerConfig

REPORT = "merge.json"
"""Beside the merged model: what it was made of, and the held-out losses of all."""


@dataclass
class MergeConfig:
    """`evolpo merge`: the decay of the learning rate, simulated after training (WSM); or adapters and their base."""

    checkpoints: list[str] = field(default_factory=list)
    """Model folders, oldest first; or give `run`, or `adapter`."""
    run: str = ""
    """Folder of a run whose newest checkpoints are merged."""
    last: int = 8
    """How many checkpoints of `run`; 0 takes all."""
    decay: str = "inverse_sqrt"
    """Which decay to simulate: linear, cosine, inverse_sqrt; or uniform, the mean of the checkpoints."""
    heldout: str = ""
    """Folder of a run of `evolpo sft` whose held-out examples judge all checkpoints and the merge; empty: no judge."""
    adapter: str = ""
    """Folder of adapters (LoRA, PEFT's layout) that are folded into their base: nothing else is merged then."""
    base: str = ""
    """The model that the adapters belong to; empty: the one that they name."""
    output: str = ""
    """Folder of the merged model; must not exist."""

    def __post_init__(self) -> None:
        """Check what is merged, how, and where it goes."""
        if [bool(self.checkpoints), bool(self.run), bool(self.adapter)].count(True) != 1:
            raise InputError("checkpoints: give either checkpoints=[A,B,...] or run=FOLDER or adapter=FOLDER")
        if self.base and not self.adapter:
            raise InputError("base: is the model of adapters; give adapter=FOLDER too")
        if self.heldout and self.adapter:
            raise InputError("heldout: judges checkpoints; leave it out with adapter")
        if self.decay not in (*DECAYS, "uniform"):
            raise InputError(f"decay: {self.decay!r} is none of {', '.join([*DECAYS, 'uniform'])}")
        if self.last < 0:
            raise InputError(f"last: {self.last} is negative; 0 takes all checkpoints")
        if not self.output:
            raise InputError("output: is empty; give the folder of the merged model")


def main(config: MergeConfig) -> None:
    """Run `evolpo merge` from the command line."""
    if config.adapter:
        print(fold_adapter(Path(config.adapter), config.base, Path(config.output)))
    else:
        print(closing_lines(merge_checkpoints(config)))


def merge_checkpoints(config: MergeConfig) -> Path:
    """Merge, judge where a run with held-out examples is given, and return the folder of the model.

    Raises:
        InputError: fewer than two checkpoints, ones that do not match, or a run that holds nothing out.
    """
    if config.run:
        folders = [folder for _, folder in step_folders(Path(config.run))][-config.last :]
        where = f"run: {config.run}"
    else:
        folders = [Path(folder) for folder in config.checkpoints]
        where = "checkpoints"
    if len(folders) < 2:
        raise InputError(f"{where}: {len(folders)} checkpoints are nothing to merge; see trainer.keep_checkpoints")
    for folder in folders:
        if is_adapter(folder):
            raise InputError(
                f"{where.partition(':')[0]}: {folder} holds adapters, whose mean is not that of their models; "
                "make whole models of them first: evolpo merge adapter=FOLDER output=FOLDER"
            )
        check_model_whole(folder, where.partition(":")[0], folders)
    judge = _Judge(config.heldout) if config.heldout else None
    weights = checkpoint_weights(config.decay, len(folders))
    output = Path(config.output)
    with Progress(len(folders) + 1, LoggerConfig()) as progress:
        for folder, weight in zip(folders, weights, strict=True):
            progress.note(f"{weight:.4f}  {folder}")
        merge(folders, weights, output, progress.note)
        losses = {} if judge is None else judge.all_losses([*folders, output], progress)
    report = {
        "decay": config.decay,
        "heldout": config.heldout,
        "checkpoints": [
            {"folder": str(folder), "weight": weight} | losses.get(folder, {})
            for folder, weight in zip(folders, weights, strict=True)
        ],
        "merged": {"folder": str(output)} | losses.get(output, {}),
    }
    write_json(output / REPORT, report)
    return output


class _Judge:
    """The held-out examples of a supervised run, judged in its precision."""

    def __init__(self, run: str) -> None:
        from omegaconf import OmegaConf

        config: Any = OmegaConf.to_object(saved_config(Path(run), SftConfig, "heldout"))
        self._trainer: TrainerConfig = config.trainer
        _, self.examples = load_examples(config)
        self._data = config.data
        if not self.examples:
            raise InputError(f"heldout: {run} holds nothing out; give a run with data.heldout_size or heldout_examples")

    def all_losses(self, folders: Sequence[Path], progress: Progress) -> dict[Path, dict[str, float]]:
        """Held-out losses of several models, one after the other."""
        found: dict[Path, dict[str, float]] = {}
        for number, folder in enumerate(folders, start=1):
            progress.phase("judging")
            found[folder] = self.losses(folder)
            progress.note(f"held-out loss {found[folder]['eval/loss']:.4f}  {folder}")
            progress.step(number, found[folder])
        return found

    def losses(self, folder: Path) -> dict[str, float]:
        """Held-out losses of a model, which is in memory for as long as this takes."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        policy = Policy(load_model(str(folder), DTYPES[self._trainer.precision])).eval().to(device)
        check_supported(policy)
        tokenizer = load_tokenizer(str(folder))
        rows = [encode_example(example, tokenizer, self._data) for example in self.examples]
        return heldout_losses(_logprobs(policy, rows, self._trainer.tokens_per_micro_batch), self.examples)


@torch.no_grad()
def _logprobs(policy: Policy, rows: Sequence[Row], budget: int) -> dict[int, list[float]]:
    """Log-probabilities of the response tokens of each row, without the optimizer that a trainer would build."""
    device = next(policy.parameters()).device
    found: dict[int, list[float]] = {}
    for packs in make_micro_batches(rows, range(len(rows)), budget):
        micro = collate(rows, packs, device)
        values, *_ = policy(micro)  # [B, T]
        found |= {i: line[kept].tolist() for i, line, kept in zip(micro.rows, values, micro.mask, strict=True)}
    return found


def closing_lines(folder: Path) -> str:
    """What a finished merge says last: held-out losses against the last and the best checkpoint, and the folder."""
    report = read_object(folder / REPORT)
    checkpoints, merged = report["checkpoints"], report["merged"]
    names = [name for name in merged if name.startswith("eval/")]
    lines = []
    if names:
        best = min(checkpoints, key=lambda one: one["eval/loss"])
        lines.append("held-out loss, nats a token  " + "  ".join(f"{name:>19}" for name in names))
        for title, one in (("merged", merged), ("last", checkpoints[-1]), ("best", best)):
            figures = "  ".join(f"{one[name]:19.4f}" for name in names)
            lines.append(f"{title:<6} {Path(one['folder']).name:<20}  {figures}")
    return "\n".join([*lines, str(folder)])
