"""Same seed, same bits: what PyTorch must be told for it on a CPU. MKL is told in `evolpo/__init__.py`."""

from __future__ import annotations

import torch


def keep_order_of_sums() -> None:
    """Let every sum on a CPU be taken in an order that does not depend on when which thread runs.

    The gradient of `x[i]` adds up all places of i that name one row; in float32 PyTorch leaves that to atomic additions
    of all threads. All responses to a prompt need the state of its last token, and experts share their tokens. Nothing
    is changed on GPUs: there it takes slower kernels of attention, or there are none.
    """
    if torch.cuda.is_available():
        return
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # helps debugging, costs
