"""What configuration a run has: the command line's, or that of the run it goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.recipes.runs.folder import CONFIG
from evolpo.rl.checkpoint import find_checkpoint


def effective_config(config: Any) -> Any:
    """The composed configuration of a command that can resume, as checked objects of its dataclass.

    With `resume=PATH` it is that of the run, changed only by fields given on the command line (such as `steps=200`).

    Raises:
        InputError: `resume` is no run of this command, or a field is wrong.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    if not config.resume:
        return OmegaConf.to_object(config)
    run, _ = find_checkpoint(config.resume)
    given = [one for one in HydraConfig.get().overrides.task if not _chooses_group(one, config)]
    base = saved_config(run, OmegaConf.get_type(config), "resume")
    return OmegaConf.to_object(OmegaConf.merge(base, OmegaConf.from_dotlist(given)))


def saved_config(run: Path, schema: Any, name: str) -> Any:
    """The configuration that a run was started with, as an OmegaConf node.

    Args:
        run: folder of the run.
        schema: the dataclass of its command.
        name: field that names the run, for messages.

    Raises:
        InputError: the folder has none, or one of another command.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not (run / CONFIG).is_file():
        raise InputError(f"{name}: {run} has no {CONFIG}; give the folder of a run")
    try:
        return OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(run / CONFIG))
    except OmegaConfBaseException as error:
        command = schema.__name__.removesuffix("Config").lower()
        problem = str(error).splitlines()[0]
        raise InputError(f"{name}: {run} is no run of evolpo {command} ({problem}); give one of those") from None


def _chooses_group(override: str, config: Any) -> bool:
    """Whether an override picks a file of a group, such as `algorithm=grpo`, rather than setting a field."""
    from omegaconf import DictConfig

    name = override.split("=", 1)[0].lstrip("+~")
    return name == "experiment" or isinstance(config.get(name), DictConfig)
