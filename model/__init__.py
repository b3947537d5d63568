"""Models: found, made, loaded; the Ling 2.0 mixture of experts; attention over packed rows; FP8.

The names below load; `ling.py` is the model, `attention.py` what the trainer puts into any model.
"""

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
