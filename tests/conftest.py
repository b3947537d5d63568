"""Fixtures that many test files share."""

import os

import pytest
from tiny_models import write_tiny_model

# Before anything imports tqdm: the first test that needs SmolLM2 makes it, with a bar in what the command wrote.
os.environ["TQDM_DISABLE"] = "1"


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random model in Hugging Face layout; read only."""
    folder = tmp_path_factory.mktemp("tiny_model")
    write_tiny_model(folder)
    return str(folder)


@pytest.fixture(scope="session")
def served_model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Like `tiny_model_path`, with a tied LM head and attention heads of 32, the smallest that vLLM takes."""
    folder = tmp_path_factory.mktemp("served_model")
    write_tiny_model(
        folder,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    return str(folder)


@pytest.fixture(scope="session")
def other_tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with other random weights; read only."""
    folder = tmp_path_factory.mktemp("other_tiny_model")
    write_tiny_model(folder, seed=1)
    return str(folder)
