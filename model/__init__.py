"""Models: found, made, loaded; the Ling 2.0 mixture of experts; attention over packed rows; FP8.

The names below load; `ling.py` is the model, `attention.py` what the trainer puts into any model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolpo.model.loading import (
        DTYPES,
        ModelConfig,
        has_fast_bf16,
        load_model,
        load_tokenizer,
        model_folder,
        resolve_precision,
    )

__all__ = [
    "DTYPES",
    "ModelConfig",
    "has_fast_bf16",
    "load_model",
    "load_tokenizer",
    "model_folder",
    "resolve_precision",
]


def __getattr__(name: str) -> Any:
    """What loads models, when it is asked for: who only looks at files need not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("evolpo.model.loading"), name)
