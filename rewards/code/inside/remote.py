"""The tests' side of the line: objects of the program, which live in another process."""

from __future__ import annotations

import builtins
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from wire import decode, encode  # type: ignore[import-not-found]

MAX_SEARCHED = 100_000
"""Elements of an object of the program among which `in` looks for one."""


class BrokenTestsError(Exception):
    """The tests themselves cannot run; this says nothing about the program."""


class ProgramEndedError(Exception):
    """The process of the program is gone."""


class Program:
    """The process of the program."""

    def __init__(self) -> None:
        theirs_in, self._ours_out = os.pipe()
        self._ours_in, theirs_out = os.pipe()
        command = [sys.executable, "-S", "-s", "-B", "/code/server.py", str(theirs_in), str(theirs_out)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=(theirs_in, theirs_out)
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._replies = os.fdopen(self._ours_in)
        self._requests = os.fdopen(self._ours_out, "w")
        self._callbacks: dict[int, Callable[..., Any]] = {}
        self._numbers = itertools.count()
        self._errors: dict[str, type[BaseException]] = {}

    def load(self, prelude: str) -> None:
        """Run the program; what it raises comes as it would in this process."""
        self.ask("load", prelude)

    def name(self, name: str, also_builtin: bool = False) -> Any:
        """What the program calls so. Raises NameError if it has no such name."""
        return self.ask("name", name, also_builtin)

    def names(self) -> list[str]:
        """All public names of the program."""
        return [str(one) for one in self.ask("names")]

    def ask(self, operation: str, *rest: Any) -> Any:
        """One request and the value that comes back."""
        reply = self._exchange([operation, *rest])
        if reply[0] == "missing":
            raise NameError(f"name {rest[0]!r} is not defined")
        return self.taken(reply[1])

    def call(self, target: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an object of the program; what it changes in a list, set or dictionary is changed here as well."""
        given = [self.given(one) for one in args]
        reply = self._exchange(["call", target, given, {name: self.given(one) for name, one in kwargs.items()}])
        for one, before, after in zip(args, given, reply[2] if len(reply) > 2 else (), strict=False):
            if after is not None and after != before:
                _replace(one, self.taken(after))
        return self.taken(reply[1])

    def given(self, value: Any) -> Any:
        """A value of the tests on the line."""
        return encode(value, self._refer)

    def taken(self, data: Any) -> Any:
        """A value of the program from the line."""
        try:
            return decode(data, self._resolve)
        except (TypeError, ValueError, IndexError) as error:
            raise ProgramEndedError(f"it broke the line: {error}") from error

    def _exchange(self, request: list[Any]) -> list[Any]:
        message = request
        while True:
            try:
                self._requests.write(json.dumps(message) + "\n")
                self._requests.flush()
                reply = json.loads(self._replies.readline())
            except (OSError, ValueError) as error:
                raise ProgramEndedError(self._end()) from error
            if not isinstance(reply, list) or not reply:
                raise ProgramEndedError("it broke the line")
            if reply[0] == "raised":
                raise self._error(*reply[1])
            if reply[0] != "callback":
                return reply
            message = self._called_back(*reply[1:])

    def _end(self) -> str:
        """How the process of the program ended."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return "the program hung up"
        if code == -signal.SIGXCPU:
            return "timeout: the program is out of CPU seconds"
        return f"the program ended with exit code {code}"

    def _called_back(self, number: int, args: list[Any]) -> list[Any]:
        try:
            return ["value", self.given(self._callbacks[number](*map(self.taken, args)))]
        except Exception as error:  # noqa: BLE001 - what a function of the tests raises goes through the program
            return ["raised", f"{type(error).__name__}: {error}"]

    def _refer(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return object.__getattribute__(value, "_reference")  # type: ignore[no-any-return]
        if callable(value) and not isinstance(value, type):
            number = next(self._numbers)
            self._callbacks[number] = value
            return ["cb", number]
        raise BrokenTestsError(f"a {type(value).__name__} of the tests cannot be handed to the program")

    def _resolve(self, data: list[Any]) -> Any:
        if data[0] == "x":
            return self._error_class(data[1], data[2])
        return Remote(self, data)

    def _error_class(self, name: str, bases: list[str]) -> type[BaseException]:
        """The built-in error of this name, or one of the program's own as a local class of the same kind."""
        found = [getattr(builtins, one, None) for one in bases]
        known = next((one for one in found if isinstance(one, type) and issubclass(one, Exception)), Exception)
        if known.__name__ == name:
            return known
        return self._errors.setdefault(name, type(name, (known,), {}))

    def _error(self, name: str, text: str, bases: list[str]) -> BaseException:
        kind = self._error_class(name, bases)
        try:
            error = kind(text)
        except TypeError:
            error = Exception(f"{name}: {text}")
        error.from_program = True  # type: ignore[attr-defined]
        return error


def _replace(target: Any, value: Any) -> None:
    if isinstance(target, list):
        target[:] = value
    elif isinstance(target, dict | set):
        target.clear()
        target.update(value)


class Remote:
    """An object of the program. It is equal to no plain value, whatever it says of itself."""

    def __init__(self, program: Program, reference: list[Any]) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_reference", reference)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it in its own process."""
        return self._program.call(self._reference, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._program.ask("attribute", self._reference, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("set", self._reference, name, self._program.given(value))

    def __instancecheck__(self, instance: Any) -> bool:
        return bool(self._program.ask("isinstance", self._program.given(instance), self._reference))

    def __iter__(self) -> Iterator[Any]:
        iterator = self._program.ask("special", "__iter__", self._reference, [])
        if not isinstance(iterator, Remote):
            yield from iterator
            return
        while True:
            try:
                yield self._program.ask("special", "__next__", iterator._reference, [])
            except StopIteration:
                return

    def __contains__(self, one: Any) -> bool:
        # Not by its own word: a result that claims to hold everything would pass.
        return any(other is one or other == one for other in itertools.islice(self, MAX_SEARCHED))

    def __eq__(self, other: object) -> Any:
        return isinstance(other, Remote) and _special("__eq__")(self, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return int(_special("__hash__")(self))


def _special(name: str) -> Callable[..., Any]:
    def method(self: Remote, *args: Any) -> Any:
        given = [self._program.given(one) for one in args]
        return self._program.ask("special", name, self._reference, given)

    return method


def _among_its_own(name: str) -> Callable[[Remote, Any], Any]:
    """A comparison with other objects of the program; what is no number is neither below nor above one."""

    def method(self: Remote, other: Any) -> Any:
        return _special(name)(self, other) if isinstance(other, Remote) else NotImplemented

    return method


for _name in (
    *("__len__", "__getitem__", "__setitem__", "__delitem__", "__bool__", "__str__", "__repr__", "__next__"),
    *("__add__", "__sub__", "__mul__", "__truediv__", "__neg__", "__abs__", "__int__", "__float__"),
    *("__enter__", "__exit__"),
):
    setattr(Remote, _name, _special(_name))
for _name in ("__lt__", "__le__", "__gt__", "__ge__"):
    setattr(Remote, _name, _among_its_own(_name))
