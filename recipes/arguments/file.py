"""`--config FILE`: a plain YAML of fields, which takes its place between the recipe and the command line.

Hydra sees it as one more option of a group, so that it composes it like an experiment: over what stands before it in
the list of defaults, below the overrides.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evolpo import InputError
from evolpo.recipes.arguments.fields import check_field, is_section, type_of
from evolpo.recipes.arguments.kinds import check_value, is_group

GROUP = "config_file"
OVERRIDE = f"+{GROUP}=given"
"""Stands among the overrides where a file was given."""
EXPERIMENT = "experiment"
MOST_VALUES = 100_000
"""No configuration has more."""
VARIABLE = "EVOLPO_CONFIG_FILE"
"""Tells the processes of a launcher of hydra, which know the overrides alone, where the file lies."""


@dataclass(frozen=True)
class ConfigFile:
    """A file of fields."""

    path: Path
    """Where it lies; absolute."""
    fields: dict[str, Any]
    """Values by field, nested as in the file."""
    choices: dict[str, str]
    """Files of groups that it picks, such as `algorithm: dapo`, and its experiment."""


def read_config_file(path: str, schema: Any) -> ConfigFile:
    """Read and check a file of fields.

    Args:
        path: of the file; `~` is the home folder.
        schema: dataclass of the command that it is for.

    Raises:
        InputError: it cannot be read, is no YAML of fields, or names a field that the command does not have.
    """
    from omegaconf import OmegaConf

    file = Path(path).expanduser()
    try:
        _check_size(yaml.safe_load(file.read_bytes()))
        loaded = OmegaConf.load(file)
        content: Any = OmegaConf.to_container(loaded)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"--config: {path} cannot be read ({reason}); `evolpo init NAME` writes one") from None
    except RecursionError:
        raise InputError(f"--config: {path} is no YAML of fields: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # of numbers with thousands of digits too
        raise InputError(f"--config: {path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content:
        raise InputError(f"--config: {path} holds no fields; write lines such as `steps: 20`")
    fields: dict[str, Any] = {}
    choices: dict[str, str] = {}
    for name, value in content.items():
        if name == EXPERIMENT:
            choices[name] = str(value)
            continue
        check_field(schema, str(name), f"{path}: ")
        section = is_section(type_of(schema, name))
        if section and isinstance(value, str) and is_group(name):
            choices[name] = value
        elif section and not isinstance(value, dict):
            raise InputError(f"{path}: {name}: holds no fields; write them indented below it, or leave it out")
        else:
            check_value(schema, name, value, f"{path}: ")
            fields[name] = value
    return ConfigFile(file.resolve(), fields, choices)


def _check_size(content: Any) -> None:
    """Raise ValueError if YAML is more values than any configuration: a few lines of aliases can stand for billions."""
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        count += 1 + len(inner)
        if count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values, aliases written out")
        waiting += inner


def register(file: ConfigFile, fields: dict[str, Any]) -> None:
    """Let hydra find the fields of a file under `OVERRIDE`."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(group=GROUP, name="given", node=fields, package="_global_")
    _given[:] = [file]
    os.environ[VARIABLE] = str(file.path)


def given_file() -> ConfigFile | None:
    """The file of this call, if there is one."""
    return _given[0] if _given else None


def given_path() -> str:
    """Where the file of this call lies, or of the call that started this process; empty if there is none."""
    return os.environ.get(VARIABLE, "")


def forget_file() -> None:
    """Begin a call without a file."""
    _given.clear()


_given: list[ConfigFile] = []
