"""Hopper's products: layouts by PyTorch's own checks on the meta device, values by a plain product that reads them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from evolpo.model.config import PRESETS, preset
from evolpo.model.fp8 import hopper, product
from evolpo.model.fp8.formats import (
    ROWS,
    TILE,
    quantise_blocks,
    quantise_features,
    quantise_tokens,
    token_tiles,
)
from evolpo.model.fp8.held import hold_weights
from evolpo.model.fp8.safeguards import watch

KINDS = nn.functional.ScalingType
SCALED_MM = nn.functional.scaled_mm
DENSE = {
    "Qwen2.5-0.5B": (896, 4864, 128),
    "Qwen2.5-1.5B": (1536, 8960, 256),
    "Qwen2.5-7B": (3584, 18944, 512),
    "Qwen2.5-32B": (5120, 27648, 1024),
    "Llama-3.1-8B": (4096, 14336, 1024),
}
"""Hidden size, that of the MLP, and of all key heads, from the models' configurations."""


def sizes():
    """(out, in) of the linear layers of dense models and of Ling's presets, where they are multiples of 128."""
    for hidden, inner, keys in DENSE.values():
        yield from ((hidden, hidden), (keys, hidden), (inner, hidden), (hidden, inner))
    for name in PRESETS:
        config = preset(name)
        heads = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
        yield from ((heads, config.hidden_size), (config.hidden_size, config.num_attention_heads * config.head_dim))
        shared = config.moe_intermediate_size * config.num_shared_experts
        for inner in {config.intermediate_size, shared}:
            yield from ((inner, config.hidden_size), (config.hidden_size, inner))


SIZES = sorted({pair for pair in sizes() if all(size % TILE == 0 for size in pair)})


@pytest.mark.parametrize(("out", "inner"), SIZES)
@pytest.mark.parametrize("rows", [1, 100, 128, 4093])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scaled_mm_takes_the_layouts_of_all_three_products(out, inner, rows, dtype):
    """On the meta device PyTorch runs its checks of shapes, strides and types, and nothing else."""
    x = torch.empty(2, rows, inner, dtype=dtype, device="meta", requires_grad=True)
    weight = nn.Parameter(torch.empty(out, inner, dtype=dtype, device="meta"))
    y = hopper.fp8_product(x, weight)
    assert (y.shape, y.dtype) == ((2, rows, out), dtype)
    y.backward(torch.empty_like(y))
    assert (x.grad.shape, x.grad.dtype) == (x.shape, dtype)
    assert (weight.grad.shape, weight.grad.dtype) == (weight.shape, dtype)


def test_the_presets_are_there():
    assert len(SIZES) > 20


def plain_scaled_mm(a, b, scale_a, recipe_a, scale_b, recipe_b, *, output_dtype):
    """What the layouts mean, read element by element of the scales, with PyTorch's own checks before."""
    meta = SCALED_MM(
        *(t.to("meta") if t.is_contiguous() else t.t().contiguous().to("meta").t() for t in (a, b)),
        scale_a.t().to("meta").t(), recipe_a, scale_b.t().to("meta").t(), recipe_b, output_dtype=output_dtype,
    )  # fmt: skip
    assert recipe_a == KINDS.BlockWise1x128
    k = a.shape[1]
    along = torch.arange(k) // TILE
    left = a.float() * scale_a[:, along]
    if recipe_b == KINDS.BlockWise1x128:
        right = b.float() * scale_b[:, along].t()
    else:
        right = b.float() * scale_b[along][:, torch.arange(b.shape[1]) // TILE]
    result = (left @ right).to(output_dtype)
    assert result.shape == meta.shape
    return result


@pytest.fixture
def on_hopper(monkeypatch):
    monkeypatch.setattr(nn.functional, "scaled_mm", plain_scaled_mm)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * 10 ** torch.randn(*shape, generator=generator)


def three_products(function, x, w, dy):
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = function(x, w)
    y.backward(dy)
    return y.detach(), x.grad, w.grad


@pytest.mark.parametrize("rows", [5, 128, 300])
def test_the_three_products_are_those_of_the_format(on_hopper, rows):
    x, w, dy = draw(rows, 384), draw(256, 384, seed=1), draw(rows, 256, seed=2)
    ours = three_products(hopper.fp8_product, x, w, dy)
    theirs = three_products(product.fp8_product, x, w, dy)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("rows", [1, 16, 129, 300])
def test_what_is_stored_is_the_format_to_the_last_bit(rows):
    x = draw(rows, 256)
    x[0, :128] = 0
    made = hopper.quantise(x)
    assert torch.equal(made.by_features().dequantise(), quantise_features(x).dequantise())
    tiles = token_tiles(torch.tensor([rows]))
    assert torch.equal(made.by_tokens().dequantise(), quantise_tokens(x, tiles).dequantise())
    assert made.features.values.shape == (rows + -rows % ROWS, 256)
    assert not made.features.values[rows:].float().any()
    assert not made.tokens.values[:, rows:].float().any()
    w = draw(256, 384)
    straight, turned = hopper.quantise_weight(w)
    assert torch.equal(straight.values.float(), quantise_blocks(w).values.float())
    assert torch.equal(straight.values, turned.values.t())


def test_layers_with_one_input_quantise_and_keep_it_once(on_hopper, monkeypatch):
    calls = []
    plain = hopper.quantise_plainly
    monkeypatch.setattr(hopper, "quantise_plainly", lambda *args: calls.append(1) or plain(*args))
    x = draw(64, 128).requires_grad_()
    weights = [draw(128, 128, seed=s).requires_grad_() for s in range(3)]
    ys = [hopper.fp8_product(x, w) for w in weights]
    assert len(calls) == 1
    sum(y.sum() for y in ys).backward()
    assert len(calls) == 4  # a gradient a layer
    hopper.fp8_product(x + 1, weights[0])
    x.data.mul_(2)
    with torch.no_grad():
        x.mul_(2)
    hopper.fp8_product(x, weights[0])
    assert len(calls) == 6


def test_a_weight_is_quantised_once_while_it_is_held(on_hopper, monkeypatch):
    calls = []
    plain = hopper.quantise_weight
    monkeypatch.setattr(hopper, "quantise_weight", lambda w: calls.append(1) or plain(w))
    x, w = draw(64, 128), draw(128, 128, seed=1).requires_grad_()
    with hold_weights():
        for _ in range(3):
            hopper.fp8_product(x, w).sum().backward()
    assert len(calls) == 1
    w.data.mul_(2)
    with hold_weights():
        doubled = hopper.fp8_product(x, w)
    assert len(calls) == 2
    torch.testing.assert_close(doubled, hopper.fp8_product(x, w))


def test_watching_sees_the_same_as_elsewhere(on_hopper):
    x, w, dy = draw(100, 256), draw(128, 256, seed=1), draw(100, 128, seed=2)
    seen = []
    for function in (hopper.fp8_product, product.fp8_product):
        with watch() as safeguards:
            three_products(lambda x, w, f=function: f(x, w, name="layer"), x, w, dy)
        seen.append(safeguards)
    assert (
        seen[0].underflow.keys() == seen[1].underflow.keys() == {f"layer.{t}" for t in ("x", "x_t", "w", "dy", "dy_t")}
    )
    assert seen[0].underflow == pytest.approx(seen[1].underflow)
    assert seen[0].distortion == pytest.approx(seen[1].distortion)


INTERPRETED = """
import json, sys, torch
from evolpo.model.fp8 import hopper, kernels
from evolpo.model.fp8.formats import quantise_blocks
from triton.runtime import interpreter
crude = interpreter._convert_float  # loses carries, and cuts numbers below the smallest normal one off
def cast(values, source, target, mode):
    if str(target) != "fp8e4nv":
        return crude(values, source, target, mode)
    return torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
interpreter._convert_float = cast
generator = torch.Generator().manual_seed(0)
wrong = []
def same(ours, plain):
    return ours is plain if plain is None else torch.equal(ours.float(), plain.float())
for rows in (1, 130):
    for dtype in (torch.float32, torch.bfloat16):
        x = (torch.randn(rows, 256, generator=generator) * 10 ** torch.randn(rows, 256, generator=generator)).to(dtype)
        x[0, :130] = 0
        for forms in ((True, True), (True, False), (False, True)):
            for ours, plain in zip(kernels.quantise(x, *forms), hopper.quantise_plainly(x, *forms)):
                wrong += [] if same(ours, plain) else [[rows, str(dtype), *forms]]
w = torch.randn(256, 384, generator=generator).bfloat16()
values, values_t, scales = kernels.quantise_blocks(w)
plain = quantise_blocks(w)
for ours, theirs in ((values, plain.values), (values_t, plain.values.t()), (scales, plain.scales)):
    wrong += [] if same(ours, theirs) else ["blocks"]
print(json.dumps(wrong))
"""


def test_the_kernels_are_the_plain_version_to_the_last_bit():
    """In Triton's interpreter, which is chosen when a kernel is defined: so in a process of its own."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, cwd=Path(__file__).parent
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_kernels_compile_for_hopper_without_one():
    """In tiles of 32, for which the compiler takes a tenth of the time."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from evolpo.model.fp8 import kernels

    sizes = dict.fromkeys(("rows", "columns", "feature_rows", "token_rows"), "i32")
    forms = {"values": "*fp8e4nv", "scales": "*fp32", "values_t": "*fp8e4nv", "scales_t": "*fp32"}
    blocks = {**{name: forms[name] for name in ("values", "values_t", "scales")}, "rows": "i32", "columns": "i32"}
    for kernel, arguments, constants in (
        (kernels._both_forms, {"x": "*bf16", **forms, **sizes}, {"features": True, "tokens": True, "tile": 32}),
        (kernels._blocks, {"weight": "*bf16", **blocks}, {"tile": 32}),
    ):
        signature = arguments | dict.fromkeys(constants, "constexpr")
        made = triton.compile(
            ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32), options={"num_warps": 8}
        )
        assert "cubin" in made.asm
