"""Adapters and their base become one model folder: `evolpo merge adapter=FOLDER`."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evolpo import InputError
from evolpo.model import load_model, load_tokenizer
from evolpo.model.digests import damage
from evolpo.model.files import DamagedError
from evolpo.model.loading import STORED, check_model_folder
from evolpo.model.lora import adapter_layers, base_of, fold, is_adapter
from evolpo.model.names import by_layer, published, save_model
from evolpo.model.stored import stored_tensors


def fold_adapter(adapter: Path, base: str, output: Path) -> Path:
    """Write the model that adapters and their base are together, in the precision of the base, whole or not at all.

    Args:
        adapter: folder in PEFT's layout, of evolpo or anybody.
        base: model that they belong to; empty: the one that they name.
        output: folder to be written; it must not be there.

    Raises:
        InputError: `output` is there, a folder is damaged or of another kind, or the adapters do not fit the base.
    """
    if output.exists():
        raise InputError(f"output: {output} is there already; give another folder or remove it")
    if not is_adapter(adapter):
        raise InputError(f"adapter: {adapter} holds no adapter_config.json; give a folder in PEFT's layout")
    if (found := damage(adapter, optimizer=False)) is not None:
        raise InputError(f"adapter: {found}; restore it from a copy, or take another checkpoint")
    try:
        base = base or base_of(adapter)
    except DamagedError as error:
        raise InputError(f"adapter: {error}; name it: base=FOLDER") from None
    try:
        check_model_folder(base)
    except InputError as error:
        raise InputError(f"base: {str(error).removeprefix('model.path: ')}") from None
    model = load_model(base, _precision(base))
    _put_in(model, adapter)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        made = Path(scratch) / output.name
        with torch.no_grad():
            save_model(model, made, _folded(model))
        load_tokenizer(base).save_pretrained(made)
        made.rename(output)
    return output


def _folded(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Weights under their published names, adapters folded in, one layer at a time."""
    layers, saved = adapter_layers(model), model.state_dict(keep_vars=True)
    named = [*model.named_parameters(), *((name, b) for name, b in model.named_buffers() if name in saved)]
    for part in by_layer(named):
        yield from published(model, list(fold([(name, tensor.data) for name, tensor in part], layers)))


def _precision(base: str) -> torch.dtype:
    """That of most tensors of a folder; of the hub nothing is known."""
    if not Path(base).is_dir():
        return torch.bfloat16
    kinds = Counter(stored.dtype for _, stored in stored_tensors(Path(base)).values())
    return STORED.get(kinds.most_common(1)[0][0], torch.bfloat16)


def _put_in(model: Any, adapter: Path) -> None:
    """Let PEFT put adapters into a model; those that are more than B A beside a linear layer are refused."""
    import peft

    try:
        settings: Any = peft.PeftConfig.from_pretrained(str(adapter))
        kind = str(getattr(settings.peft_type, "value", settings.peft_type))
        if kind != "LORA" or settings.use_dora or settings.bias != "none" or settings.modules_to_save:
            raise InputError(f"adapter: {adapter} is more than plain LoRA ({kind}); peft's merge_and_unload merges it")
        peft.PeftModel.from_pretrained(model, str(adapter), config=settings)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"adapter: {adapter} does not fit its base ({reason}); give base=FOLDER") from None
