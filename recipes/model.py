"""`evolpo model path`: the folder of a model, made on first use; `evolpo model check`: what it holds."""

from __future__ import annotations

from pathlib import Path

from evolpo import InputError
from evolpo.model import model_folder
from evolpo.recipes.config import ModelCheckConfig, ModelCommandConfig
from evolpo.recipes.runs.model_facts import model_facts


def main(config: ModelCommandConfig) -> None:
    """Print the folder."""
    print(model_folder(config.model))


def check(config: ModelCheckConfig) -> None:
    """Print a table about a model folder.

    Raises:
        InputError: it cannot be trained.
    """
    path = config.model.path or model_folder(config.model)
    if not Path(path).is_dir():
        raise InputError(f"model.path: {path} is no folder; download the model and give its folder")
    facts = model_facts(path)
    facts.print()
    if facts.problem:
        raise InputError(f"model.path: {facts.problem}")
