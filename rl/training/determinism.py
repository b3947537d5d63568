"""Same seed, same bits: what PyTorch must be told for it. MKL is told in `evolpo/__init__.py`.

On a CPU it is so by itself (`keep_order_of_sums`). On a GPU it costs speed and is asked for (`trainer.deterministic`,
`fix_order_on_gpu`).
"""

from __future__ import annotations

import os
import sys

import torch

from evolpo import InputError

CAPABILITY = 9
"""Compute capability from which vLLM's batch-invariant mode leaves a trainer in its process alone: Hopper. On older
cards it replaces matrix products of the whole process by kernels that have no gradient."""
ENVIRONMENT = {
    "VLLM_BATCH_INVARIANT": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":16:8",
    "CUBLASLT_WORKSPACE_SIZE": "1",
}
"""vLLM's modules read the first when they are imported, and set the others themselves, so that cuBLAS does not split
sums; PyTorch reads those at its first product, which here is the trainer's. It takes `:16:8` and `:4096:8` alike."""


def keep_order_of_sums() -> None:
    """Let every sum on a CPU be taken in an order that does not depend on when which thread runs.

    The gradient of `x[i]` adds up all places of i that name one row; in float32 PyTorch leaves that to atomic additions
    of all threads. All responses to a prompt need the state of its last token, and experts share their tokens. Nothing
    is changed on GPUs, see `fix_order_on_gpu`.
    """
    if torch.cuda.is_available():
        return
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # helps debugging, costs


def fix_order_on_gpu(wanted: bool) -> None:
    """Let trainer and engine add in one order on a GPU, before either does anything there; nothing without a GPU.

    PyTorch then takes forms of its kernels without atomic additions, the backward pass of attention among them, and
    raises where there is none.

    Raises:
        InputError: vLLM has read other settings already.
    """
    if not (wanted and torch.cuda.is_available()):
        return
    if "vllm" in sys.modules and any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        words = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
        raise InputError(f"trainer.deterministic: vLLM has been imported without it; set {words} in the environment")
    os.environ.update(ENVIRONMENT)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def check_device(fp8: bool) -> None:
    """Refuse what has no fixed order on the GPU that is there.

    Raises:
        InputError: the card is too old, or FP8 is asked for.
    """
    if not torch.cuda.is_available():
        return
    if torch.cuda.get_device_capability()[0] < CAPABILITY:
        raise InputError(
            f"trainer.deterministic: needs a Hopper GPU or a newer one, this is {torch.cuda.get_device_name()}; false"
        )
    if fp8:
        raise InputError("trainer.deterministic: nobody promises an order of sums in FP8; trainer.fp8=false")
