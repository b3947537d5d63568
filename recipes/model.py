"""`evolpo model path`: the folder of a model, made on first use."""

from __future__ import annotations

from evolpo.model import model_folder
from evolpo.recipes.config import ModelCommandConfig


def main(config: ModelCommandConfig) -> None:
    """Print the folder."""
    print(model_folder(config.model))
