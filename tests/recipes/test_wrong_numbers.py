"""Every number of every command, set to what is none: a line with the full name of the field, nothing loaded."""

import dataclasses
import math
import time
import types
import typing
from collections.abc import Iterator
from dataclasses import replace
from pkgutil import resolve_name
from typing import Any, Union

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from evolpo import InputError
from evolpo.recipes.arguments.fields import SIGNED
from evolpo.recipes.commands import COMMANDS, TO_OBJECT, Command, one_line, registered

NEVER: list[Any] = [math.nan, math.inf, -math.inf, 10**30, -(10**30), "many", "", [], {}, [[]], "1e400x"]
"""Values that no number has."""
NEEDED = {
    "init": ["name=a"],
    "pareto": ["++runs.a=[x]", "++runs.b=[y]", "output=z"],
    "merge": ["run=x", "output=y"],
    "apexeval": ["run=x"],
    "bench aesthetics": ["folder=x"],
    "score": ["use=math", "file=x"],
    "pipeline": ["experiment=pipeline/evo_cot_nano"],
    "compare": ["experiment=compare/lpo_vs_grpo_gspo"],
}
"""What a command cannot be composed without."""


def bare(found: Any) -> Any:
    """`int | None` as `int`."""
    kept = [one for one in typing.get_args(found) if one is not type(None)]
    return kept[0] if typing.get_origin(found) in (Union, types.UnionType) and len(kept) == 1 else found


def numbers(schema: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Full names of the fields with a number, and of single elements of lists; with the dataclass that each is in."""
    for name, found in typing.get_type_hints(schema).items():
        found = bare(found)
        if found in (int, float):
            yield f"{prefix}{name}", schema, name
        elif dataclasses.is_dataclass(found):
            yield from numbers(found, f"{prefix}{name}.")
        elif typing.get_origin(found) is list:
            inner = bare(typing.get_args(found)[0])
            if inner in (int, float):
                yield f"{prefix}{name}.0", schema, name
            elif dataclasses.is_dataclass(inner):
                yield from numbers(inner, f"{prefix}{name}.0.")


@pytest.fixture(scope="module")
def hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_module("evolpo.recipes.conf", version_base=None):
        yield


def refusal(command: Command, config: Any) -> str | None:
    """What the command line says of a composed configuration; None if it takes it."""
    try:
        command.checked(config)
    except InputError as error:
        return str(error)
    except OmegaConfBaseException as error:
        return one_line(error)
    return None


def changed(command: Command, config: Any, field: str, value: Any) -> str | None:
    copy = config.copy()
    try:
        outer, _, last = field.rpartition(".")
        if last.isdecimal():
            OmegaConf.update(copy, outer, [value])
        else:
            OmegaConf.update(copy, field, value)
    except OmegaConfBaseException as error:
        return one_line(error)
    return refusal(command, copy)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_number_is_refused_by_its_full_name(hydra: None, name: str) -> None:
    command = replace(registered(name), effective=TO_OBJECT)
    config = compose(command.config, NEEDED.get(name, []))
    assert refusal(command, config) is None
    began, accepted = time.monotonic(), []
    for field, _, own in numbers(resolve_name(command.schema)):
        if ".0." in field and not OmegaConf.select(config, field.split(".0.")[0]):
            continue
        negative = [] if own in SIGNED else [-1]
        for value in [*NEVER, *negative]:
            message = changed(command, config, field, value)
            if message is None:
                accepted.append(f"{field}={value!r}")
                continue
            shown = field.replace(".0", "[0]")
            names = (shown, shown.removesuffix("[0]"), shown.replace("[0]", ".0"))
            marks = (":", "[")
            assert message.startswith(tuple(f"{one}{mark}" for one in names for mark in marks)), (field, value, message)
            assert "\n" not in message
    assert accepted == []
    assert time.monotonic() - began < 60
