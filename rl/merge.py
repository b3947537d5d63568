"""WSM: the decay of the learning rate, after training, by merging checkpoints.

Source: Ling 2.0 report, section 3.2.3; arXiv 2507.17634.

Train at a constant rate and save checkpoints theta_0 .. theta_k. A decay would have scaled the updates between two
checkpoints j - 1 and j by w_j. Where gradients do not change with it, that run ends at

    theta_0 + sum_j w_j (theta_j - theta_{j-1})  =  sum_j c_j theta_j,    c_0 = 1 - w_1, c_j = w_j - w_{j+1}, c_k = w_k
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import torch

from evolpo import InputError
from evolpo.model.stored import INDEX
from evolpo.rl.schedule import DECAYS

OTHER = ("config.json", "generation_config.json", "chat_template.jinja", "merges.txt", "vocab.json", INDEX)


def decay_coefficients(decay: str, intervals: int) -> list[float]:
    """w_1 .. w_k: the decay in the middle of each interval between two checkpoints."""
    return [DECAYS[decay]((j + 0.5) / intervals) for j in range(intervals)]


def merge_weights(coefficients: Sequence[float]) -> list[float]:
    """c_0 .. c_k of the checkpoints, which sum to 1, from the decay w_1 .. w_k of the intervals between them.

    Raises:
        ValueError: not 1 >= w_1 >= .. >= w_k >= 0.
    """
    bounded = [1.0, *coefficients, 0.0]
    if any(a < b for a, b in pairwise(bounded)):
        raise ValueError(f"decay coefficients must fall from 1 to 0: {list(coefficients)}")
    return [a - b for a, b in pairwise(bounded)]


def checkpoint_weights(decay: str, checkpoints: int) -> list[float]:
    """Weights of so many checkpoints, oldest first: `uniform` is their mean, other names simulate that decay."""
    if decay == "uniform":
        return [1 / checkpoints] * checkpoints
    return merge_weights(decay_coefficients(decay, checkpoints - 1))


def merge(folders: Sequence[Path], weights: Sequence[float], output: Path, progress: Callable[[str], None]) -> None:
    """Write the weighted sum of models as a model folder, atomically, one tensor of each in memory at a time.

    Sums are in float64; every tensor keeps the precision it has in the last folder. Configuration and tokenizer are
    those of the last folder.

    Args:
        folders: models in Hugging Face layout, oldest first.
        weights: of each, summing to 1.
        output: folder to be written; it must not be there.
        progress: is told each file.

    Raises:
        InputError: `output` is there, or the models do not have the same tensors; all differences are named.
    """
    from safetensors.torch import save_file

    if output.exists():
        raise InputError(f"output: {output} is there already; give another folder or remove it")
    names = [tensor_files(folder) for folder in folders]
    _check_alike(folders, names)
    output.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(set(names[-1].values()))
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch, ExitStack() as stack:
        made = Path(scratch) / output.name
        made.mkdir()
        readers = [_Reader(folder, known, stack) for folder, known in zip(folders, names, strict=True)]
        for file in files:
            progress(f"merging {file}")
            merged = {}
            for name in sorted(name for name, place in names[-1].items() if place == file):
                parts = [reader.get(name) for reader in readers]
                total = sum(c * part.double() for c, part in zip(weights, parts, strict=True))
                merged[name] = torch.as_tensor(total).to(parts[-1].dtype)
            save_file(merged, made / file, metadata={"format": "pt"})
        for source in folders[-1].iterdir():
            if source.name in OTHER or source.name.startswith("tokenizer") or source.name == "special_tokens_map.json":
                shutil.copy2(source, made / source.name)
        made.rename(output)


class _Reader:
    """Tensors of one model by name, each file opened once."""

    def __init__(self, folder: Path, files: Mapping[str, str], stack: ExitStack) -> None:
        from safetensors import safe_open

        self._files = files
        self._open = {file: stack.enter_context(safe_open(folder / file, "pt")) for file in set(files.values())}

    def get(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._open[self._files[name]].get_tensor(name)
        return tensor


def tensor_files(folder: Path) -> dict[str, str]:
    """Name of each tensor of a model folder -> the file it is in.

    Raises:
        InputError: the folder holds no model.
    """
    from safetensors import safe_open

    if (folder / INDEX).is_file():
        found: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
        return found
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"checkpoints: {folder} holds no *.safetensors; give folders in Hugging Face layout")
    places: dict[str, str] = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            places |= dict.fromkeys(tensors.keys(), file.name)
    return places


def _check_alike(folders: Sequence[Path], names: Sequence[Mapping[str, str]]) -> None:
    last = _shapes(folders[-1], names[-1])
    for folder, known in zip(folders[:-1], names[:-1], strict=True):
        shapes = _shapes(folder, known)
        differing = [name for name in sorted(last.keys() | shapes.keys()) if last.get(name) != shapes.get(name)]
        if differing:
            listed = "; ".join(f"{name} {shapes.get(name)} and {last.get(name)}" for name in differing)
            raise InputError(f"checkpoints: {folder} and {folders[-1]} do not match: {listed}")


def _shapes(folder: Path, names: Mapping[str, str]) -> dict[str, list[int]]:
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for file in sorted(set(names.values())):
        with safe_open(folder / file, "pt") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 -- no mapping
    return shapes
