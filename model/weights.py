"""Ling 2.0 checkpoints: stacked experts in memory, one tensor an expert on disk; nothing missing, nothing left over."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evolpo import InputError
from evolpo.model.config import BailingMoeV2Config
from evolpo.model.experts import routers
from evolpo.model.shards import write_shards
from evolpo.model.stored import INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Cut = Callable[[Iterable[nn.Parameter]], None]
"""Takes parameters one after the other and leaves of each what is to be kept, as `evolpo.rl.training.sharded` does."""
STACKED_GATE_UP = ".mlp.experts.gate_up_proj"
STACKED_DOWN = ".mlp.experts.down_proj"


def published(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor in memory as the tensors of a public checkpoint: views, for stacked experts one by one."""
    if name.endswith(STACKED_GATE_UP):
        for expert, both in enumerate(tensor):
            base = f"{name.removesuffix('gate_up_proj')}{expert}"
            gate, up = both.chunk(2)
            yield f"{base}.gate_proj.weight", gate
            yield f"{base}.up_proj.weight", up
    elif name.endswith(STACKED_DOWN):
        for expert, weight in enumerate(tensor):
            yield f"{name.removesuffix('down_proj')}{expert}.down_proj.weight", weight
    else:
        yield name, tensor


def is_mtp(name: str, layers: int) -> bool:
    """Whether a parameter belongs to a multi-token prediction layer of a model with so many layers besides."""
    parts = name.split(".")
    return parts[:2] == ["model", "layers"] and int(parts[2]) >= layers


def mtp_layers(model: Any) -> list[nn.Module]:
    """The multi-token prediction layers of a Ling 2.0 model: the last of its layers, or none.

    Other families name such layers in their configuration as well, but transformers leaves them out of the model.
    """
    count = model.config.num_nextn_predict_layers if isinstance(model.config, BailingMoeV2Config) else 0
    return list(model.model.layers[-count:]) if count else []


def saved_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """All parameters and saved buffers in memory, under their names there."""
    yield from model.state_dict(keep_vars=True).items()


def load_weights(model: PreTrainedModel, path: str | Path, dtype: torch.dtype, cut: Cut | None = None) -> None:
    """Fill a model on the meta device from the safetensors files of a folder or hub name.

    MTP layers that the checkpoint has and the configuration does not are left out; everything else must match.

    Args:
        model: on the meta device.
        path: folder, or hub name.
        dtype: of all weights but the experts' bias, which stays in float32.
        cut: gets each parameter when it is filled, before memory is asked for the next one.

    Raises:
        InputError: tensors are missing, left over or of another shape; it names them all.
    """
    layers = model.config.num_hidden_layers + model.config.num_nextn_predict_layers
    with ExitStack() as stack:
        found = _opened(_files(_folder(path)), stack)
        _check_fit(_shapes(model), found, layers)
        filling = _filled(model, found, dtype)
        if cut is None:
            deque(filling, maxlen=0)
        else:
            cut(filling)


def _folder(path: str | Path) -> Path:
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(path), allow_patterns=["*.safetensors", "*.json"]))


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.exists():
        names = set(json.loads(index.read_text())["weight_map"].values())
        missing = sorted(name for name in names if not (folder / name).exists())
        if missing:
            raise InputError(f"model.path: {folder} lacks {', '.join(missing)}, which its {INDEX} names")
        return sorted(folder / name for name in names)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"model.path: {folder} has no *.safetensors")
    return files


def _opened(files: Iterable[Path], stack: ExitStack) -> dict[str, Any]:
    """By published name, the open file that has the tensor."""
    from safetensors import safe_open

    opened = [stack.enter_context(safe_open(file, "pt")) for file in files]
    return {name: file for file in opened for name in file.keys()}  # noqa: SIM118 -- not a mapping


def _filled(model: PreTrainedModel, found: Mapping[str, Any], dtype: torch.dtype) -> Iterator[nn.Parameter]:
    """The parameters of a model on the meta device, each when it is filled; buffers are filled in passing."""
    for router in routers(model):
        router.load = torch.zeros(router.experts, dtype=torch.int64)
    for name, empty in saved_tensors(model):
        wide = name.endswith("expert_bias")
        tensor = torch.empty(empty.shape, dtype=torch.float32 if wide else dtype)
        for known, part in published(name, tensor):
            part.copy_(found[known].get_tensor(known))
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        module.load_state_dict({own: tensor}, strict=False, assign=True)
        if isinstance(filled := getattr(module, own), nn.Parameter):
            yield filled


def _shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    """By published name, the shape of each tensor as the configuration means it."""
    return {known: part.shape for name, empty in saved_tensors(model) for known, part in published(name, empty)}


def _check_fit(shapes: Mapping[str, torch.Size], found: Mapping[str, Any], layers: int) -> None:
    misshapen = []
    for name in shapes.keys() & found.keys():
        shape, meant = list(found[name].get_slice(name).get_shape()), list(shapes[name])
        if shape != meant:
            misshapen.append(f"{name} {shape} instead of {meant}")
    problems = {
        "missing": sorted(shapes.keys() - found.keys()),
        "left over": sorted(name for name in found.keys() - shapes.keys() if not is_mtp(name, layers)),
        "of another shape": sorted(misshapen),
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise InputError(f"model.path: the checkpoint does not fit its config.json; {listed}")


def save_weights(model: PreTrainedModel, folder: str | Path, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Write config.json and safetensors files in the layout of the public checkpoints.

    Args:
        model: whose configuration is written.
        folder: made if it is not there.
        tensors: to write instead of the model's own, under the names in memory or the published ones.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = dict(tensors if tensors is not None else saved_tensors(model))
    dtypes = {tensor.dtype for name, tensor in source.items() if not name.endswith("expert_bias")}
    model.config.dtype = next(iter(dtypes))
    model.config.save_pretrained(folder)
    write_shards((pair for name, tensor in source.items() for pair in published(name, tensor)), folder)
