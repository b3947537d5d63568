"""What a foreign reward function asks for, by its signature: found when it is loaded, not at its first call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a function that an adapter can give values to."""

    names: tuple[str, ...]
    """All that can be given by name, in their order."""
    required: frozenset[str]
    """Those without a default."""
    positional: tuple[str, ...]
    """Those without a default that can be given by position, in their order."""
    only_positional: tuple[str, ...]
    """Those that cannot be given by name."""
    catches_all: bool
    """Whether it has `**kwargs`."""

    @classmethod
    def of(cls, function: Function) -> Signature:
        """The signature of a function, a partial or a callable object.

        Raises:
            ValueError: it has none, as some functions written in C.
        """
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name_of(function)} has no signature that could be read: {error}") from error
        kinds = inspect.Parameter
        named = [one for one in parameters if one.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
        first = [one for one in parameters if one.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.POSITIONAL_ONLY)]
        return cls(
            names=tuple(one.name for one in named),
            required=frozenset(one.name for one in named if one.default is kinds.empty),
            positional=tuple(one.name for one in first if one.default is kinds.empty),
            only_positional=tuple(one.name for one in first if one.kind is kinds.POSITIONAL_ONLY),
            catches_all=any(one.kind is kinds.VAR_KEYWORD for one in parameters),
        )

    def accepted(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Those arguments that the function names, or all if it takes any."""
        if self.catches_all:
            return dict(arguments)
        return {name: value for name, value in arguments.items() if name in self.names}

    def check(self, function: Function, given: Iterable[str], options: Iterable[str], toolkit: str) -> None:
        """Refuse what cannot be called.

        Args:
            function: of this signature.
            given: names that the adapter passes.
            options: names that the configuration passes.
            toolkit: name of the adapter.

        Raises:
            ValueError: a parameter gets no value, or an option has no parameter.
        """
        known = [*given, *options]
        name = name_of(function)
        if self.only_positional:
            raise ValueError(
                f"function: {name} takes {self.only_positional[0]!r} by position only; {toolkit} passes names"
            )
        if lacking := [one for one in self.names if one in self.required and one not in known]:
            raise ValueError(
                f"function: {name} needs {lacking[0]!r}, which {toolkit} does not pass (it passes {', '.join(given)}); "
                f"give it as options.{lacking[0]} or another function"
            )
        if not self.catches_all and (unknown := [one for one in options if one not in self.names]):
            raise ValueError(
                f"function: {name} got an unexpected keyword argument {unknown[0]!r}; it takes {', '.join(self.names)}"
            )


def first_results(results: Any, count: int, name: str) -> list[Any]:
    """A result a response, from a list, a tuple, an array, a tensor or an iterator.

    Raises:
        ValueError: it is none of these, or has another length.
    """
    if hasattr(results, "tolist"):
        results = results.tolist()
    if isinstance(results, str | bytes | Mapping | set | frozenset) or not isinstance(results, Iterable):
        raise ValueError(f"{name} returned {type(results).__name__}: a list with one result a response is needed")
    found = list(results)
    if len(found) != count:
        raise ValueError(f"{name} returned {len(found)} rewards for {count} responses")
    return found


def unwrapped(function: Function) -> Function:
    """The function inside partials."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def name_of(function: Function) -> str:
    """Name of a function, a partial or a callable object."""
    function = unwrapped(function)
    return str(getattr(function, "__name__", type(function).__name__))
