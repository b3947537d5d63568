"""What configuration a run has: the command line's, or that of the run it goes on from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.recipes.arguments.fields import is_section, type_of
from evolpo.recipes.arguments.file import EXPERIMENT, OVERRIDE, given_file
from evolpo.recipes.arguments.grammar import at_home
from evolpo.recipes.runs.damage import check_config, check_run
from evolpo.recipes.runs.folder import CONFIG, read_start
from evolpo.recipes.runs.lock import locked
from evolpo.rewards.beside import make_importable
from evolpo.rl.checkpoint import find_checkpoint, read_state, real_folder, step_folders

PATHS = ("path", "output_dir")
"""Fields that hold a path, by the last part of their name."""
FIXED = ("name", "output_dir", "seed", "model.name", "model.lora")
"""Fields that a run cannot change on its way."""
SOURCES = ("data.train", "data.heldout")
"""Problems, which may lie elsewhere by now but must be the same."""


def effective_config(config: Any) -> Any:
    """The composed configuration of a command that can resume, as checked objects of its dataclass.

    With `resume=PATH` it is that of the run, changed only by fields given on the command line or in a file. The process
    goes to the directory in which the run was started, if there is one of that name: its relative paths and plugins are
    there.

    Raises:
        InputError: `resume` is no run of this command, another process works on it, a file is damaged, a field is
            wrong, or the run cannot go on with what is asked.
    """
    from omegaconf import OmegaConf

    schema = OmegaConf.get_type(config)
    if not config.resume:
        return _replayed(config, schema) if config.get("replay") else OmegaConf.to_object(config)
    run, checkpoint = resume_point(config.resume)
    if int(os.environ.get("RANK", "0")) == 0:
        with locked(run):  # found out before processes are started and a model is loaded
            if checkpoint is not None:
                check_run(run, checkpoint)
    saved = saved_config(run, schema, "resume")
    choices, given = _given(schema)
    _check_choices(choices, read_start(run).get("choices"), run)
    merged = _with_given(saved, given)
    _check_honoured(saved, merged)
    merged.resume = str(checkpoint or run)
    _go_to(read_start(run).get("directory", ""))
    checked: Any = OmegaConf.to_object(merged)
    done = read_state(checkpoint)["step"] if checkpoint else 0
    if checked.steps < done:
        raise InputError(f"steps: {checked.steps} is less than the {done} that are done; give at least {done}")
    return checked


def _replayed(config: Any, schema: Any) -> Any:
    """The configuration of a recorded run, with what this call gives."""
    from omegaconf import OmegaConf

    run = real_folder(config.replay)
    choices, given = _given(schema)
    _check_choices(choices, read_start(run).get("choices"), run)
    merged = _with_given(saved_config(run, schema, "replay"), given)
    merged.replay, merged.resume, merged.logger.record = str(run), "", False
    _go_to(read_start(run).get("directory", ""))
    return OmegaConf.to_object(merged)


def resume_point(path: str) -> tuple[Path, Path | None]:
    """Resolve `resume=PATH` to (run folder, checkpoint folder); PATH is a run, or one of its checkpoints.

    A run that ended before its first checkpoint has none: it starts anew from its own configuration.

    Raises:
        InputError: there is neither a checkpoint nor a run that was begun.
    """
    folder = real_folder(path)
    if (folder / CONFIG).is_file() and not step_folders(folder):
        return folder, None
    return find_checkpoint(path)


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
    from yaml import YAMLError

    if not (run / CONFIG).is_file():
        raise InputError(f"{name}: {run} has no {CONFIG}; give the folder of a run")
    check_config(run, name)
    try:
        return OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(run / CONFIG))
    except (YAMLError, UnicodeDecodeError, RecursionError, OSError) as error:
        problem = " ".join(str(error).split())
        raise InputError(f"{name}: {run / CONFIG} is damaged ({problem}); restore it from a copy") from None
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError) as error:
        command = schema.__name__.removesuffix("Config").lower()
        problem = " ".join(str(error).split("\n    full_key")[0].split())
        raise InputError(
            f"{name}: {run} is no run of evolpo {command} ({CONFIG}: {problem}); give one of those"
        ) from None


def _given(schema: Any) -> tuple[dict[str, str], list[str]]:
    """What this call gives: files of groups that it picks, by group, and overrides of fields."""
    from hydra.core.hydra_config import HydraConfig

    choices: dict[str, str] = {}
    fields: list[str] = []
    for word in HydraConfig.get().overrides.task:
        name, _, value = word.partition("=")
        group = name.lstrip("+~")
        if word == OVERRIDE or group in ("resume", "replay"):
            continue
        if group == EXPERIMENT or (is_section(type_of(schema, group)) and not value.startswith("{")):
            choices[group] = value
        else:
            fields.append(word)
    return choices, fields


def _check_choices(choices: Mapping[str, str], started: Mapping[str, str] | None, run: Path) -> None:
    """Raise InputError where another file of a group is picked than the run was started with."""
    for group, value in choices.items():
        known = (started or {}).get(group)
        if value != known:
            was = f"was started with {group}={known}" if known else f"was not started with {group}={value}"
            raise InputError(
                f"{group}: {run} {was}, which cannot change on the way; leave it out, or set single fields "
                f"such as steps=200"
            )


def _with_given(saved: Any, given: Sequence[str]) -> Any:
    """The saved configuration with what the file and the command line set, paths from where the user is now."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf, open_dict

    file = given_file()
    merged = OmegaConf.merge(saved, _from_here(file.fields, "")) if file else saved.copy()
    for override in OverridesParser.create().parse_overrides(list(given)):
        name = override.key_or_group
        with open_dict(merged):
            if override.is_delete():
                raise InputError(f"{name}: cannot be taken away from a run; set it")
            OmegaConf.update(merged, name, _from_here(override.value(), name), merge=True, force_add=override.is_add())
    return at_home(merged)


def _from_here(value: Any, name: str) -> Any:
    """The same with relative paths of things that exist here made absolute."""
    if isinstance(value, dict):
        return {key: _from_here(part, str(key)) for key, part in value.items()}
    if isinstance(value, list):
        return [_from_here(part, name) for part in value]
    is_path = isinstance(value, str) and value and name.rsplit(".", 1)[-1] in PATHS
    return str(Path(value).absolute()) if is_path and Path(value).exists() else value


def _check_honoured(saved: Any, merged: Any) -> None:
    """Raise InputError if a field is to change that a run cannot change on its way."""
    from omegaconf import OmegaConf

    def value(config: Any, name: str) -> Any:
        found = OmegaConf.select(config, name)
        return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found

    for name in (*FIXED, *SOURCES, "data.heldout_size", "data.seed"):
        before, now = value(saved, name), value(merged, name)
        if name == "output_dir":
            before, now = str(Path(before).absolute()), str(Path(now).absolute())
        if name in SOURCES:
            before, now = ([{**one, "path": ""} for one in sources or []] for sources in (before, now))
        if now != before:
            raise InputError(f"{name}: a run that goes on keeps its own ({before}); leave it out or start a new run")
    path = value(saved, "model.path")
    needed = OmegaConf.select(saved, "algorithm.kl_coef") or value(saved, "model.lora.rank")
    if value(merged, "model.path") != path and not needed:
        raise InputError("model.path: a run that goes on takes the model of its checkpoint; leave it out")


def _go_to(directory: str) -> None:
    """Work where the run was started, if that is still there."""
    if directory and Path(directory).is_dir():
        os.chdir(directory)
        make_importable(directory)
