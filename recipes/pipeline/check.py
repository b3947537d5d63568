"""What is checked of a pipeline before its first stage runs, so that a mistake in the last one is found at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from evolpo import InputError
from evolpo.model import ModelConfig, model_folder
from evolpo.recipes.commands import composed, one_line
from evolpo.recipes.config import SftConfig, TrainConfig
from evolpo.recipes.dft_data import read_examples
from evolpo.recipes.pipeline.stages import StageConfig
from evolpo.recipes.runs.context import check_context
from evolpo.recipes.runs.launch import local_processes
from evolpo.rewards.stack import RewardsConfig, RewardStack
from evolpo.rollout.engine import RolloutConfig
from evolpo.rollout.prompts import DataConfig, SourceConfig, load_problems

SAMPLE = 8
"""Problems that are generated of each source to see whether it works."""


def check_configurations(stages: Sequence[StageConfig]) -> None:
    """Compose the configuration of every stage and check all that can be checked without running it.

    Raises:
        InputError: a stage's configuration is wrong; the stage is named.
    """
    configs: dict[str, Any] = {}
    models: dict[str, str] = {}
    checked: set[str] = set()
    for index, stage in enumerate(stages):
        try:
            config = configs[stage.name] = _composed(stage)
            before = [models[name] for name in stage.references() if name in models]
            own = getattr(config, "model", None)
            model = before[0] if before else (model_folder(own) if isinstance(own, ModelConfig) else "")
            if model:
                models[stage.name] = model
            _check_parts(config, model, checked)
            if stage.command == "merge" and stage.run:
                _check_enough(stage.run, configs[stage.run])
        except InputError as error:
            raise InputError(f"stages[{index}] ({stage.name}): {error}") from None


def _composed(stage: StageConfig) -> Any:
    """The stage's configuration; what only earlier stages can tell is a name in place of a folder."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    output = ["output=output"] if stage.command == "merge" else []
    try:
        return composed(stage.command, [*stage.arguments(stage.model, stage.run), *output])
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(one_line(error)) from None


def _check_parts(config: Any, model: str, checked: set[str]) -> None:
    """Data, rewards and context of one stage; `checked` are the data of earlier ones, which are often the same."""
    parts: Mapping[str, Any] = {one.name: getattr(config, one.name) for one in fields(config)}
    for part in parts.values():
        if isinstance(part, RewardsConfig):
            RewardStack(part).close()
    if isinstance(config, TrainConfig):
        config.check_ranks(local_processes(config.processes))
    if isinstance(config, SftConfig) and config.path:
        read_examples(config.path)
        return
    data, rollout = parts.get("data"), parts.get("rollout")
    if isinstance(data, DataConfig) and repr(data) not in checked:
        checked.add(repr(data))
        if data.train or not data.heldout:
            load_problems(_sampled(data.train), "data.train")
        if data.heldout:
            load_problems(_sampled(data.heldout), "data.heldout")
    if isinstance(data, DataConfig) and isinstance(rollout, RolloutConfig) and model:
        check_context(model, data, rollout)


def _sampled(sources: Sequence[SourceConfig]) -> list[SourceConfig]:
    return [replace(source, size=min(source.size, SAMPLE)) for source in sources]


def _check_enough(name: str, config: SftConfig | TrainConfig) -> None:
    """Whether a run leaves two checkpoints to merge."""
    every, keep = config.trainer.save_every, config.trainer.keep_checkpoints
    saved = -(-config.steps // every)
    left = min(saved, keep) if keep else saved
    if left < 2:
        raise InputError(
            f"run: {name} leaves {left} checkpoint, which is nothing to merge (steps={config.steps}, "
            f"trainer.save_every={every}, trainer.keep_checkpoints={keep}); save more often or keep more"
        )
