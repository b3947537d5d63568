"""`evolpo merge`: several checkpoints of a run become one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from evolpo import InputError
from evolpo.rl.checkpoint import list_checkpoints
from evolpo.rl.merge import DECAYS, checkpoint_weights, merge
from evolpo.rl.metrics import LoggerConfig, Progress


@dataclass
class MergeConfig:
    """`evolpo merge`: the decay of the learning rate, simulated after training (WSM)."""

    checkpoints: list[str] = field(default_factory=list)
    """Model folders, oldest first; or give `run`."""
    run: str = ""
    """Folder of a run whose newest checkpoints are merged."""
    last: int = 8
    """How many checkpoints of `run`; 0 takes all."""
    decay: str = "inverse_sqrt"
    """Which decay to simulate: linear, cosine, inverse_sqrt; or uniform, the mean of the checkpoints."""
    output: str = ""
    """Folder of the merged model; must not exist."""

    def __post_init__(self) -> None:
        """Check what is merged, how, and where it goes."""
        if bool(self.checkpoints) == bool(self.run):
            raise InputError("checkpoints: give either checkpoints=[A,B,...] or run=FOLDER")
        if self.decay not in (*DECAYS, "uniform"):
            raise InputError(f"decay: {self.decay!r} is none of {', '.join([*DECAYS, 'uniform'])}")
        if self.last < 0:
            raise InputError(f"last: {self.last} is negative; 0 takes all checkpoints")
        if not self.output:
            raise InputError("output: is empty; give the folder of the merged model")


def merge_checkpoints(config: MergeConfig) -> Path:
    """Merge and return the folder of the model.

    Raises:
        InputError: fewer than two checkpoints, or ones that do not match.
    """
    if config.run:
        folders = [folder for _, folder in list_checkpoints(Path(config.run))][-config.last :]
        where = f"run: {config.run}"
    else:
        folders = [Path(folder) for folder in config.checkpoints]
        where = "checkpoints"
    if len(folders) < 2:
        raise InputError(f"{where}: {len(folders)} checkpoints are nothing to merge; see trainer.keep_checkpoints")
    weights = checkpoint_weights(config.decay, len(folders))
    with Progress(len(folders), LoggerConfig()) as progress:
        for folder, weight in zip(folders, weights, strict=True):
            progress.note(f"{weight:.4f}  {folder}")
        merge(folders, weights, Path(config.output), progress.note)
    return Path(config.output)
