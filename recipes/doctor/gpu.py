"""The table of checks that need a card; ten minutes in all."""

from __future__ import annotations

from collections.abc import Mapping

from evolpo.recipes.doctor import card_memory, kernels, ranks, tiny
from evolpo.recipes.doctor.finding import Check

GPU_CHECKS: Mapping[str, Check] = {
    "bf16 products": kernels.products,
    "attention": kernels.attention,
    "experts": kernels.experts,
    "FP8": kernels.fp8,
    "memory of a pass": card_memory.passes,
    "ZeRO 0 to 3": ranks.zero,
    "sampling": lambda: tiny.loop("smollm2", groups=64, tokens=256),
}
"""In this order. The training loop of the other table sleeps and wakes the engine where there is a card."""
