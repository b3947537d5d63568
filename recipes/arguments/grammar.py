"""Hydra's grammar of values, for values that it does not take as they are: paths with umlauts, `~`, YAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from evolpo.recipes.arguments.fields import is_text, type_of

UNKNOWN: Any = object()
"""Stands for a value that cannot be told."""


def quoted(text: str) -> str:
    """Text as a value of hydra, whatever stands in it."""
    inside = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    end = re.search(r"\\*$", inside)
    assert end is not None
    return f"'{inside}{end[0]}'"


def written(value: Any) -> str:
    """A value read from YAML as a value of hydra."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if value is None:
        return "null"
    return quoted(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def readable(argument: str, schema: Any) -> str:
    """An override as hydra can read it.

    What its grammar refuses is quoted where the field holds text, and read as YAML where it holds a list or a mapping.

    Args:
        argument: `field=value`; anything else stays as it is.
        schema: the dataclass of the command.
    """
    name, equals, value = argument.partition("=")
    if not equals or argument.startswith("-") or _parses(argument):
        return argument
    field = name.lstrip("+~")
    if is_text(type_of(schema, field)):
        return f"{name}={quoted(value)}"
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        return argument  # hydra says what is wrong with it
    again = f"{name}={written(found)}"
    return again if isinstance(found, dict | list) and _parses(again) else argument


def value_of(argument: str) -> Any:
    """What an override sets its field to; UNKNOWN where hydra cannot read it, or it is a sweep."""
    try:
        override = OverridesParser.create().parse_override(argument)
        return UNKNOWN if override.is_sweep_override() else override.value()
    except (HydraException, ValueError):
        return UNKNOWN


def at_home(config: Any) -> Any:
    """Replace `~/` and `~user/` at the beginning of texts by the home folder, in place; returns the configuration.

    Args:
        config: an OmegaConf node.
    """
    from omegaconf import DictConfig, ListConfig, OmegaConf

    if config is None or config._is_none():
        return config
    keys = list(config) if isinstance(config, DictConfig) else range(len(config))
    for key in keys:
        if OmegaConf.is_interpolation(config, key) or OmegaConf.is_missing(config, key):
            continue
        value = config[key]
        if isinstance(value, DictConfig | ListConfig):
            at_home(value)
        elif isinstance(value, str) and re.match(r"~[\w.-]*(/|$)", value):
            config[key] = _expanded(value)
    return config


def _expanded(text: str) -> str:
    try:
        return str(Path(text).expanduser())
    except RuntimeError:  # no such user: whoever opens the path says that it does not exist
        return text


def _parses(argument: str) -> bool:
    try:
        override = OverridesParser.create().parse_override(argument)
        override.value()
    except (HydraException, ValueError):
        return False
    return True
