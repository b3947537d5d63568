"""Loading models."""

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
