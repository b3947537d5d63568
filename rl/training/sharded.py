"""Models sharded over the ranks as they are read (ZeRO stage 3): no rank, and no card, ever holds all weights.

A parameter is read, cut, and freed but for the rank's own share, before the next one is. What transformers reads is
mapped from its files: the processes of a machine have these pages in common, and the system takes them back. Two kinds
of models are still made whole in the memory of each process before they are cut: those whose experts transformers
stacks, and those that `evolpo.model.loading` cannot read in the precision of their files.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from evolpo.model import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_sharded(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """`load_model`, of which every rank keeps its share on its device; torch.distributed runs, and all ranks call this.

    Raises:
        InputError: see `load_model`; on every rank.
    """
    model = load_model(path, dtype, partial(_cut, dtype=dtype))
    device = next(model.parameters()).device
    for module in model.modules():  # DeepSpeed moves no buffers of a model that comes in shards
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    return model


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """The shape of a parameter, of which a rank may hold a flat share."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _cut(parameters: Iterable[nn.Parameter], dtype: torch.dtype) -> None:
    """Leave of each parameter this rank's share, in place, one after the other; rank 0's values are taken."""
    import deepspeed

    before: Any = None
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype, copy=True)  # DeepSpeed writes into it: mapped pages stay clean
        if before is None:
            deepspeed.zero.Init(module=nn.ParameterList([parameter]), config_dict_or_path=_settings(dtype))
        else:
            before.convert_to_zero_parameters(param_list=[parameter])
        before = parameter


def _settings(dtype: torch.dtype) -> dict[str, Any]:
    """As much of DeepSpeed's configuration as decides how parameters are cut; the engine's own has the rest."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": {"stage": 3},
    }
