"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) by peft: put in, switched off, folded in, on disk.

A linear layer W gets B A beside it, of rank r, and computes W x + (alpha / r) B A x; W is frozen. B begins as zero,
so that the first policy is the base. Files are PEFT's: `adapter_config.json` and `adapter_model.safetensors`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evolpo import InputError
from evolpo.model.files import DamagedError, read_object
from evolpo.model.weights import mtp_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
"""What PEFT writes before the name of a module."""
NAME = "default"
"""PEFT's name of the one adapter."""
MARKS = (".lora_A.", ".lora_B.")


@dataclass
class LoraConfig:
    """Low-rank adapters: they alone are trained, the model itself stays as it is."""

    rank: int | None = None
    """Rank of an adapter; 1 to 32 are usual in reinforcement learning. Empty: all weights are trained."""
    alpha: float = 32.0
    """Adapters are scaled by alpha / rank."""
    targets: list[str] = field(default_factory=lambda: [ALL_LINEAR])
    """Linear layers that get one, by the end of their names, such as q_proj; all-linear: all but the output layer."""
    dropout: float = 0.0
    """Must be 0: with dropout the policy that is trained is another than the one that sampled, and no run resumes."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.rank is None:
            for name, usual in (("alpha", 32.0), ("targets", [ALL_LINEAR]), ("dropout", 0.0)):
                if (given := getattr(self, name)) != usual:
                    mend = "give a rank such as 16, or leave model.lora out"
                    raise InputError(f"model.lora.{name}: {given} means nothing while model.lora.rank is empty; {mend}")
            return
        if self.rank < 1:
            raise InputError(f"model.lora.rank: {self.rank} is not positive; leave it out to train all weights")
        if not 0 < self.alpha < math.inf:
            raise InputError(f"model.lora.alpha: {self.alpha} is not positive; give about twice the rank")
        if not self.targets:
            raise InputError(f"model.lora.targets: is empty; give names of linear layers, or {ALL_LINEAR}")
        if self.dropout != 0:
            raise InputError(
                f"model.lora.dropout: {self.dropout} would make the trained policy another than the one that sampled;"
                " give 0"
            )


def adapted_names(model: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    """Full names of the linear layers that get an adapter, in the order of the model; MTP layers get none.

    Args:
        model: may be on the meta device.
        targets: ends of names, or `all-linear`.

    Raises:
        InputError: a target is no linear layer of the model, or the output layer; it is named.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    outside = {id(head)} | {id(module) for layer in mtp_layers(model) for module in layer.modules()}
    modules = [(name, module) for name, module in model.named_modules() if id(module) not in outside]
    linear = [name for name, module in modules if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(f"model.lora: {type(model).__name__} has no linear layers to adapt; train all weights")
    if list(targets) == [ALL_LINEAR]:
        return linear
    for target in targets:
        found = [name for name in linear if _ends(name, target)]
        if not found:
            raise InputError(_no_target(model, target, sorted({name.rsplit(".", 1)[-1] for name in linear})))
    return [name for name in linear if any(_ends(name, target) for target in targets)]


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _no_target(model: Any, target: str, known: Sequence[str]) -> str:
    given = f"model.lora.targets: {target!r}"
    choose = f"choose among {', '.join(known)}, or {ALL_LINEAR} alone"
    if any(_ends(name, target) and module is model.get_output_embeddings() for name, module in model.named_modules()):
        return f"{given} is the output layer, which adapters leave alone; {choose}"
    names = [*dict(model.named_modules()), *dict(model.named_parameters())]
    if any(_ends(name, target) for name in names):
        experts = "experts" in target or any(name.endswith(f".experts.{target}") for name in names)
        kind = "a stack of experts, of which peft would form whole matrices" if experts else "no linear layer"
        return f"{given} is {kind}; {choose}"
    return f"{given} is in no layer of {type(model).__name__}; {choose}"


def check_targets(folder: str, config: LoraConfig) -> None:
    """Raise InputError unless a model folder has the targets of adapters; no weights are read."""
    from evolpo.model.shapes import empty_model

    if Path(folder).is_dir():
        adapted_names(empty_model(Path(folder)), config.targets)


def add_adapters(model: PreTrainedModel, config: LoraConfig, seed: int) -> None:
    """Freeze a model and put trainable adapters into it.

    Args:
        model: its weights are on the CPU, or sharded.
        config: which and how large.
        seed: of the first values of A, as PEFT draws them; the same on every rank.

    Raises:
        InputError: see `adapted_names`.
    """
    import peft

    assert config.rank is not None, "no adapters were asked for"
    chosen = adapted_names(model, config.targets)
    ends = sorted({name.rsplit(".", 1)[-1] for name in chosen}) if config.targets == [ALL_LINEAR] else config.targets
    inside = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)} - set(chosen)
    left_out = sorted(name for name in inside if any(_ends(name, end) for end in ends))
    model.requires_grad_(False)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=int(config.alpha) if float(config.alpha).is_integer() else config.alpha,  # type: ignore[arg-type]
        target_modules=list(ends),
        exclude_modules=left_out or None,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model, NAME)


def adapter_layers(model: nn.Module) -> dict[str, Any]:
    """PEFT's layers by name; empty in a model without adapters."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The base model: no adapter acts while this is entered."""
    layers = adapter_layers(model).values()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' matrices under the names that PEFT writes."""
    return {
        PREFIX + name.replace(f".{NAME}.", "."): parameter
        for name, parameter in model.named_parameters()
        if any(mark in name for mark in MARKS)
    }


def fold(named: Sequence[tuple[str, Tensor]], layers: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a model with adapters as those of one without: W + (alpha / r) B A, summed in float32.

    Args:
        named: full tensors by their names in memory; W, A and B of a layer are together among them.
        layers: `adapter_layers` of the model.
    """
    tensors = dict(named)
    for name, tensor in named:
        layer, _, kind = name.rpartition(".base_layer.")
        if layer not in layers:
            if not any(mark in name for mark in MARKS):
                yield name, tensor
            continue
        if kind == "weight":
            a, b = (tensors[f"{layer}.{part}.{NAME}.weight"].float() for part in ("lora_A", "lora_B"))
            tensor = torch.addmm(tensor.float(), b, a, alpha=layers[layer].scaling[NAME]).to(tensor.dtype)
        yield f"{layer}.{kind}", tensor


def save_adapter(model: Any, folder: Path, tensors: Mapping[str, Tensor], base: str) -> None:
    """Write adapters as PEFT does.

    Args:
        model: has them.
        folder: made if it is not there.
        tensors: by the names of `adapter_parameters`, on the CPU.
        base: the model that they belong to, a folder or hub name.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    settings = model.peft_config[NAME]
    settings.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    settings.inference_mode = True
    settings.save_pretrained(folder)
    save_file(dict(tensors), folder / ADAPTER, metadata={"format": "pt"})


@torch.no_grad()
def load_adapter(model: nn.Module, folder: Path) -> None:
    """Fill the adapters of a model from a folder.

    Raises:
        InputError: the file has other matrices than the model.
    """
    from safetensors.torch import load_file

    stored, own = load_file(folder / ADAPTER), adapter_parameters(model)
    differing = [
        name
        for name in sorted(stored.keys() | own.keys())
        if name not in stored or name not in own or stored[name].shape != own[name].shape
    ]
    if differing:
        listed = ", ".join(differing[:4])
        raise InputError(f"model.lora: {folder} holds adapters of another model ({listed}); give its own")
    for name, parameter in own.items():
        parameter.copy_(stored[name])


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters and no whole model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The model that the adapters of a folder belong to.

    Raises:
        DamagedError: its configuration is damaged or names none.
    """
    base = read_object(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise DamagedError(folder / CONFIG, "names no base model (base_model_name_or_path)")
    return base
