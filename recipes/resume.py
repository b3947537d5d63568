"""What configuration a run has: the command line's, or that of the run it goes on from."""

from __future__ import annotations

from typing import Any

from evolpo import InputError
from evolpo.recipes.config import TrainConfig
from evolpo.recipes.run import CONFIG
from evolpo.rl.checkpoint import find_checkpoint


def effective_config(config: Any) -> TrainConfig:
    """The configuration as objects, checked.

    With `resume=PATH` it is that of the run, changed only by fields given on the command line (such as `steps=200`).
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    if not config.resume:
        result: Any = OmegaConf.to_object(config)
        assert isinstance(result, TrainConfig)
        return result
    run, _ = find_checkpoint(config.resume)
    if not (run / CONFIG).is_file():
        raise InputError(f"resume: {run} has no {CONFIG}; give the folder of a run")
    given = [one for one in HydraConfig.get().overrides.task if not _chooses_group(one, config)]
    base = OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.load(run / CONFIG))
    result = OmegaConf.to_object(OmegaConf.merge(base, OmegaConf.from_dotlist(given)))
    assert isinstance(result, TrainConfig)
    return result


def _chooses_group(override: str, config: Any) -> bool:
    """Whether an override picks a file of a group, such as `algorithm=grpo`, rather than setting a field."""
    from omegaconf import DictConfig

    name = override.split("=", 1)[0].lstrip("+~")
    return name == "experiment" or isinstance(config.get(name), DictConfig)
