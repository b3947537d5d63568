"""Kernels of a device against plain maths in float64, forward and backward, and how fast they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from evolpo.recipes.doctor.finding import BAD, CARE, GOOD, ISSUE, Finding

CLOSE = {torch.bfloat16: 0.02, torch.float32: 1e-4}
"""Norm of an error by that of the exact result, at the most."""
CLOSE_FP8 = 0.08
"""The same of a product of two numbers of three bits after the point each."""
WORTH = 1.1
"""Times that FP8 must be faster than bf16 for `trainer.fp8` to be of use."""


def relative(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference by the norm of what is exact."""
    exact = exact.double()
    return float((found.double() - exact).norm() / exact.norm())


def gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], upstream: Tensor) -> list[Tensor]:
    """Result and gradients by every input."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    result = function(*leaves)
    result.backward(upstream.to(result.dtype))  # type: ignore[no-untyped-call]
    return [result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def errors(function: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[float]:
    """Relative errors of a function and its gradients against plain maths in float64 on the same numbers."""
    exact_inputs = [x.double() for x in inputs]
    with torch.no_grad():
        upstream = torch.randn_like(plain(*exact_inputs))
    upstream = upstream.to(inputs[0].dtype).double()  # the same numbers for both
    exact = gradients(plain, exact_inputs, upstream)
    return [relative(a, b) for a, b in zip(gradients(function, inputs, upstream), exact, strict=True)]


def seconds(function: Callable[[], object], device: str, times: int = 10) -> float:
    """Median time of a call, after two that warm up."""
    taken = []
    for index in range(times + 2):
        _wait(device)
        began = time.perf_counter()
        function()
        _wait(device)
        taken.append(time.perf_counter() - began if index > 1 else 0.0)
    return sorted(taken[2:])[times // 2]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def attention(device: str = "cuda", length: int = 300) -> Finding:
    """Attention of several padded rows, with fewer heads of keys than of queries, against softmax(q k) v."""
    from evolpo.model.kernels import causal_attention, general_attention

    torch.manual_seed(0)
    dtype = torch.bfloat16
    shapes = ((3, 8, length, 64), (3, 2, length, 64), (3, 2, length, 64))
    inputs = [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(4, dim=1) for x in (k, v))
        scores = q @ k.transpose(2, 3) / 8.0
        return scores.masked_fill(torch.ones(length, length, device=device).triu(1).bool(), -torch.inf).softmax(-1) @ v

    figures = {}
    for name, kernel in (("causal", causal_attention), ("by blocks", general_attention)):
        figures[name] = max(errors(lambda q, k, v, kernel=kernel: kernel(q, k, v, None), plain, inputs))
    figures["ms"] = 1e3 * seconds(
        lambda: gradients(lambda q, k, v: causal_attention(q, k, v, None), inputs, inputs[0]), device
    )
    worst = max(figures["causal"], figures["by blocks"])
    found = f"3 rows of {length} tokens, bf16: worst error {worst:.1%}, {figures['ms']:.1f} ms forward and backward"
    if not worst < CLOSE[dtype]:
        return Finding(BAD, found, "training would follow wrong gradients", ISSUE, figures)
    return Finding(GOOD, found, figures=figures)


def experts(device: str = "cuda", hidden: int = 256) -> Finding:
    """Grouped experts against a loop over them in float64."""
    from evolpo.model.experts import Experts, experts_by_loop

    torch.manual_seed(0)
    layer = Experts(16, hidden, 128)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=hidden**-0.5)
    layer = layer.to(device, torch.bfloat16)
    chosen = torch.stack([torch.randperm(16)[:4] for _ in range(512)]).to(device)
    weights = torch.rand(512, 4, device=device)
    tokens = torch.randn(512, hidden, device=device, dtype=torch.bfloat16)
    exact = [w.double() for w in (layer.gate_up_proj, layer.down_proj)]

    def one(number: int) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            gate, up = (x @ exact[0][number].T).chunk(2, dim=1)
            return (nn.functional.silu(gate) * up) @ exact[1][number].T

        return run

    def plain(x: Tensor) -> Tensor:
        return experts_by_loop([one(i) for i in range(16)], x, chosen, weights.double())

    worst = max(errors(lambda x: layer(x, chosen, weights), plain, [tokens]))
    found = f"16 experts, 512 tokens, bf16: worst error {worst:.1%}"
    if not worst < CLOSE[torch.bfloat16]:
        return Finding(BAD, found, "mixtures would follow wrong gradients", ISSUE, {"error": worst})
    return Finding(GOOD, found, figures={"error": worst})


def products(device: str = "cuda", size: int = 8192) -> Finding:
    """Speed of bf16 products."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    speed = 2 * size**3 / seconds(lambda: a @ b, device) / 1e12
    found = f"{speed:.3g} TFLOP/s in bf16 products of {size}"
    return Finding(GOOD, found, "an H100 SXM reaches some 600 to 800", figures={"tflops": speed})


def fp8(device: str = "cuda", tokens: int = 4096, features: int = 3584, out: int = 18_944) -> Finding:
    """The three FP8 products of a layer of Qwen2.5-7B's size against float64, and timed against bf16."""
    from evolpo.model.fp8 import hopper
    from evolpo.model.fp8.product import fp8_product

    torch.manual_seed(0)
    small = [torch.randn(256, 512, device=device).bfloat16(), torch.randn(384, 512, device=device).bfloat16() / 20]
    products = hopper.fp8_product if device == "cuda" else fp8_product  # small layers stay in bf16 on a GPU
    worst = max(errors(lambda x, w: products(x, w), lambda x, w: x @ w.T, small))
    x = torch.randn(tokens, features, device=device, dtype=torch.bfloat16)
    weight = torch.randn(out, features, device=device, dtype=torch.bfloat16) / 50
    upstream = torch.randn(tokens, out, device=device, dtype=torch.bfloat16)
    ours = seconds(lambda: gradients(lambda a, b: fp8_product(a, b), (x, weight), upstream), device, times=5)
    plain = seconds(lambda: gradients(lambda a, b: a @ b.T, (x, weight), upstream), device, times=5)
    figures = {"error": worst, "fp8_ms": 1e3 * ours, "bf16_ms": 1e3 * plain, "times": plain / ours}
    found = (
        f"worst error {worst:.1%}; {1e3 * ours:.2f} ms where bf16 takes {1e3 * plain:.2f} ({plain / ours:.2f} times)"
    )
    if not worst < CLOSE_FP8:
        return Finding(
            BAD,
            found,
            "FP8 gives wrong gradients here",
            f"leave trainer.fp8=false; {ISSUE}",
            figures,
        )
    if plain / ours < WORTH:
        return Finding(CARE, found, "FP8 saves memory here, not time", "leave trainer.fp8=false", figures)
    return Finding(
        GOOD,
        found,
        "trainer.fp8=true pays; weights are quantised once a call here, a step in training",
        figures=figures,
    )
