"""The words of a call of evolpo as overrides of hydra."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from evolpo import InputError
from evolpo.recipes.arguments.fields import check_field, is_open, is_section, type_of
from evolpo.recipes.arguments.file import (
    EXPERIMENT,
    OVERRIDE,
    ConfigFile,
    forget_file,
    given_file,
    given_path,
    read_config_file,
    register,
)
from evolpo.recipes.arguments.grammar import UNKNOWN, quoted, readable, value_of
from evolpo.recipes.arguments.kinds import check_value

OWN_DATA = "data=own"
"""The group of data that sets nothing: what problems of one's own begin with."""
FLAGS = {"--dry-run": "dry_run=true", "--gpu": "gpu=true"}
"""Words that stand for an override."""


def hydra_words(arguments: Sequence[str], config_name: str, schema: Any, positional: Sequence[str] = ()) -> list[str]:
    """What hydra is to read of a call.

    Args:
        arguments: words after the command.
        config_name: of the command's YAML file in `conf/`.
        schema: the dataclass behind that.
        positional: fields that leading words without a name fill, in this order.

    Raises:
        InputError: a field does not exist, or the file of `--config` is wrong.
    """
    words, path = _without_config(named(arguments, positional))
    words = [expanded(dotted(word), config_name) for word in words if word != OVERRIDE]
    words = [added(readable(word, schema), schema) for word in words]
    for word in words:
        _check_word(word, schema)
    forget_file()
    if path:
        words = _with_file(words, read_config_file(path, schema), config_name, schema)
    file = given_file()
    if own_data(words, file.fields if file else {}):
        words.insert(0, OWN_DATA)
    return words


def words_again(words: Sequence[str]) -> list[str]:
    """The words of this call for another process, from those that hydra has read."""
    path = given_path() if OVERRIDE in words else ""
    return [*(["--config", path] if path else []), *(word for word in words if word != OVERRIDE)]


def named(arguments: Sequence[str], fields: Sequence[str]) -> list[str]:
    """Leading arguments without a name as overrides of the command's positional fields."""
    plain = list(takewhile(lambda argument: "=" not in argument and not argument.startswith("-"), arguments))
    values = plain[: len(fields)]
    overrides = [f"{field}={quoted(value)}" for field, value in zip(fields, values, strict=False)]
    return [*overrides, *arguments[len(overrides) :]]


def dotted(argument: str) -> str:
    """`data.train[0].path=FILE`, as messages name fields, as hydra wants it: `data.train.0.path=FILE`."""
    name, equals, value = argument.partition("=")
    return re.sub(r"\[(\d+)\]", r".\1", name) + equals + value if equals else argument


def expanded(argument: str, config_name: str) -> str:
    """`--dry-run` and the like as overrides; `experiment=NAME` as the command's file, `experiment=COMMAND/NAME`."""
    if argument in FLAGS:
        return FLAGS[argument]
    field, equals, value = argument.partition("=")
    if field.lstrip("+") != EXPERIMENT or not value:
        return argument
    return field + equals + ",".join(one if "/" in one else f"{config_name}/{one}" for one in value.split(","))


def added(argument: str, schema: Any) -> str:
    """An override that may add names where the configuration knows none, such as the options of a reward."""
    field, equals, _ = argument.partition("=")
    return f"++{argument}" if equals and re.fullmatch(r"\w[\w.\[\]]*", field) and is_open(schema, field) else argument


def own_data(words: Sequence[str], fields: Mapping[str, Any]) -> bool:
    """Whether the problems are the user's own, so that nothing of a recipe's data may mix with them.

    That is so where `data.train` is given as a whole, unless the data to begin with are named too. A run that is
    resumed begins with its own.

    Args:
        words: overrides.
        fields: of the file, nested.
    """
    given = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
    if "data" in given or given.get("resume"):
        return False
    return "data.train" in given or "train" in (fields.get("data") or {})


def _without_config(words: Sequence[str]) -> tuple[list[str], str]:
    """The words without `--config FILE`, and the file; empty if there is none."""
    kept, path, rest = [], "", iter(words)
    for word in rest:
        if word == "--config":
            path = next(rest, "")
            if not path:
                raise InputError("--config: name a file of fields; `evolpo init NAME` writes one")
        elif word.startswith("--config="):
            path = word.partition("=")[2]
        else:
            kept.append(word)
    return kept, path


def _with_file(words: list[str], file: ConfigFile, config_name: str, schema: Any) -> list[str]:
    """The words with those that the file stands for; the command line goes before the file."""
    chosen = {word.split("=", 1)[0].lstrip("+") for word in words if _chooses(word, schema)}
    register(file, {name: value for name, value in file.fields.items() if name not in chosen})
    choices = [f"{name}={value}" for name, value in file.choices.items() if name not in chosen]
    return [*(expanded(one, config_name) for one in choices), OVERRIDE, *words]


def _chooses(word: str, schema: Any) -> bool:
    """Whether a word picks a file of a group, or an experiment."""
    name = word.split("=", 1)[0].lstrip("+")
    return "=" in word and (name == EXPERIMENT or is_section(type_of(schema, name)))


def _check_word(word: str, schema: Any) -> None:
    """Raise InputError if a word sets a field that does not exist."""
    name, equals, _ = word.lstrip("+").partition("=")
    if not equals or not re.fullmatch(r"\w[\w.\[\]]*", name) or name.split(".")[0] in (EXPERIMENT, "hydra"):
        return
    check_field(schema, name)
    value = value_of(word)
    if is_section(type_of(schema, name)) and value in (None, "", []):
        raise InputError(f"{name}: holds fields of its own and cannot be empty; leave it out, or set its fields")
    if value is not UNKNOWN:
        check_value(schema, name, value)
