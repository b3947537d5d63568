"""Attention and FP8 on the device itself, with the kernels that will train, against plain mathematics in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evolpo import InputError
from evolpo.model.kernels import causal_attention, general_attention

LENGTH = 150
"""Tokens of a row: more than a tile of any kernel."""
ROWS = 3
LARGEST_ERROR = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
"""Of a result, relative to its norm: bf16 rounds by 0.2 to 0.4% (H100, CPUs), and TF32 by 0.1%; a wrong mask or scale
is off by more than a tenth."""


def check_kernels(config: Any, dtype: torch.dtype, device: torch.device, fp8: bool = False) -> None:
    """Compare attention forward and backward with plain mathematics, and FP8's products with their emulation.

    Args:
        config: of the model: its heads count, and a window, where it has one.
        dtype: of activations.
        device: on which it will train.
        fp8: whether linear layers will be in FP8.

    Raises:
        InputError: a kernel of this device gives something else, with its name and by how much.
    """
    heads = int(config.num_attention_heads)
    grouped = int(getattr(config, "num_key_value_heads", None) or heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    generator = torch.Generator().manual_seed(0)
    shapes = ((ROWS, heads, LENGTH, size), *((ROWS, grouped, LENGTH, size),) * 2, (ROWS, heads, LENGTH, size))
    *inputs, upstream = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=device).tril()
    window = causal & ~torch.ones_like(causal).tril(-LENGTH // 3)
    for name, table in (("causal attention", causal), ("attention in a window", window)):

        def ours(q: Tensor, k: Tensor, v: Tensor, table: Tensor = table) -> Tensor:
            return causal_attention(q, k, v, None) if table is causal else general_attention(q, k, v, None, table)

        def plain(q: Tensor, k: Tensor, v: Tensor, table: Tensor = table) -> Tensor:
            return _plain_attention(q, k, v, table)

        exact = _with_gradients(plain, [one.float() for one in inputs], upstream.float())
        _compare(name, device, _with_gradients(ours, inputs, upstream), exact, LARGEST_ERROR[dtype])
    if fp8 and device.type == "cuda":
        _check_fp8(dtype, device, generator)


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> Tensor:
    key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
    result: Tensor = scores.masked_fill(~table, -torch.inf).softmax(3) @ value
    return result


def _check_fp8(dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> None:
    from evolpo.model.fp8 import hopper
    from evolpo.model.fp8.product import emulated_product

    shapes = ((LENGTH, 256), (384, 256), (LENGTH, 384))
    *inputs, upstream = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    emulated = _with_gradients(emulated_product, [one.float() for one in inputs], upstream.float())
    _compare("FP8", device, _with_gradients(hopper.fp8_product, inputs, upstream), emulated, LARGEST_ERROR[dtype])


def _with_gradients(function: Any, inputs: list[Tensor], upstream: Tensor) -> list[Tensor]:
    leaves = [one.detach().clone().requires_grad_() for one in inputs]
    with torch.enable_grad():
        result = function(*leaves)
        return [result.detach(), *torch.autograd.grad(result, leaves, upstream)]


def _compare(name: str, device: torch.device, ours: list[Tensor], exact: list[Tensor], largest: float) -> None:
    for part, one, other in zip(("forward", "1st gradient", "2nd gradient", "3rd gradient"), ours, exact, strict=False):
        error = float((one.float() - other).norm() / other.norm())
        if not error < largest:
            where = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
            raise InputError(
                f"trainer: {name} on {where} is off by {error:.2g} ({part}, {one.dtype}); other versions of PyTorch, "
                f"driver or processor are needed"
            )
