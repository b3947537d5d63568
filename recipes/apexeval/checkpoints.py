"""The checkpoints that ApexEval judges: found, checked to be of one architecture, and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolpo import InputError
from evolpo.recipes.runs.damage import check_model_whole
from evolpo.rl.checkpoint import step_folders
from evolpo.rl.merge import tensor_files

if TYPE_CHECKING:
    from torch import Tensor

INCIDENTAL = ("transformers_version", "_name_or_path", "dtype")
"""Fields of config.json that may differ between checkpoints of one architecture."""


def checkpoints_of_run(run: str) -> list[Path]:
    """The checkpoints of a run, oldest first.

    Raises:
        InputError: there are none.
    """
    folders = [folder for _, folder in step_folders(Path(run))]
    if not folders:
        raise InputError(f"run: {run} holds no checkpoint; give a run with checkpoints/step_N, or checkpoints=[A,B]")
    return folders


def check_folders(folders: Sequence[Path]) -> None:
    """Raise InputError unless these are model folders, whole ones, each given once."""
    if twice := sorted({str(folder) for folder in folders if folders.count(folder) > 1}):
        raise InputError(f"checkpoints: {', '.join(twice)} is given more than once; give every folder once")
    for folder in folders:
        wanted = ("config.json", "tokenizer_config.json", "*.safetensors")
        missing = [name for name in wanted if not any(folder.glob(name))]
        if missing:
            raise InputError(f"checkpoints: {folder} is no model folder, it has no {' and no '.join(missing)}")
        check_model_whole(folder, "checkpoints", folders)


def check_alike(folders: Sequence[Path]) -> None:
    """Raise InputError unless these models have the same configuration, and tensors of the same names."""
    first, names = _architecture(folders[0]), tensor_files(folders[0]).keys()
    for folder in folders[1:]:
        other = _architecture(folder)
        differing = [key for key in sorted(first.keys() | other.keys()) if first.get(key) != other.get(key)]
        if differing:
            values = "; ".join(f"{key} {first.get(key)} and {other.get(key)}" for key in differing)
            raise InputError(
                f"checkpoints: {folders[0]} and {folder} are not of one architecture ({values}); "
                "judge them in runs of their own"
            )
        if odd := sorted(names ^ tensor_files(folder).keys()):
            raise InputError(
                f"checkpoints: {folders[0]} and {folder} do not hold the same tensors; "
                f"only one of them has {', '.join(odd)}"
            )


def _architecture(folder: Path) -> dict[str, Any]:
    """What config.json says, defaults filled in, so that it does not matter which program wrote it."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    from evolpo.model.config import register

    register()
    try:
        fields: dict[str, Any] = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    except (ValueError, OSError, StrictDataclassError) as error:
        raise InputError(f"checkpoints: {folder}: config.json: {' '.join(str(error).split())}") from None
    return {name: value for name, value in fields.items() if name not in INCIDENTAL}


def stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a model folder under their names there, one in memory at a time."""
    from safetensors import safe_open

    places = tensor_files(folder)
    for file in sorted(set(places.values())):
        with safe_open(folder / file, "pt") as tensors:
            for name in sorted(name for name, place in places.items() if place == file):
                yield name, tensors.get_tensor(name)
