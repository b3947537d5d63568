"""The process of the program: loads it, does what the tests ask for, and tells results as data.

Arguments: the descriptors to read requests from and to write replies to. Nothing here decides anything.
"""

from __future__ import annotations

import builtins
import itertools
import json
import operator
import os
import sys
from collections.abc import Callable
from typing import Any

from wire import decode, encode  # type: ignore[import-not-found]

_BUILT_IN: dict[str, Callable[..., Any]] = {
    f"__{one.__name__}__": one for one in (len, iter, next, str, repr, bool, int, float, hash)
}


class Server:
    """Objects of the program by number, and what can be done with them."""

    def __init__(self, requests: Any, replies: Any) -> None:
        self._requests, self._replies = requests, replies
        self._objects: dict[int, Any] = {}
        self._numbers = itertools.count()
        self._program: dict[str, Any] = {}

    def serve(self) -> None:
        """Answer requests until the tests hang up."""
        for line in self._requests:
            try:
                reply = self._answer(json.loads(line))
            except BaseException as error:  # noqa: BLE001 - whatever the program raises is an answer
                reply = ["raised", self._raised(error)]
            self._send(reply)

    def _send(self, message: list[Any]) -> None:
        self._replies.write(json.dumps(message) + "\n")
        self._replies.flush()

    def _answer(self, request: list[Any]) -> list[Any]:
        operation, *rest = request
        operations: dict[str, Callable[..., list[Any]]] = {
            "load": self._load,
            "name": self._name,
            "names": self._names,
            "call": self._call,
            "attribute": lambda one, name: ["value", self._out(getattr(self._in(one), name))],
            "set": lambda one, name, value: self._set(one, name, value),
            "special": self._special,
            "isinstance": lambda one, kind: ["value", isinstance(self._in(one), self._in(kind))],
        }
        return operations[operation](*rest)

    def _load(self, prelude: str) -> list[Any]:
        """Run the program as a module of its own, after what its prompt gives it."""
        if prelude:
            exec(compile(prelude, "prompt.py", "exec"), self._program)
        with open("/code/program.py", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            source = file.read()
        self._program["__name__"] = "solution"
        sys.modules["solution"] = _Module("solution", self._program)
        exec(compile(source, "program.py", "exec"), self._program)
        return ["value", None]

    def _name(self, name: str, also_builtin: bool) -> list[Any]:
        if name not in self._program and not (also_builtin and hasattr(builtins, name)):
            return ["missing"]
        return ["value", self._out(self._program.get(name, getattr(builtins, name, None)))]

    def _names(self) -> list[Any]:
        return ["value", ["l", [name for name in self._program if not name.startswith("_")]]]

    def _call(self, target: Any, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        given = [self._in(one) for one in args]
        result = self._in(target)(*given, **{name: self._in(one) for name, one in kwargs.items()})
        # What it changed in place belongs to the result.
        changed = [self._out(one) if isinstance(one, list | dict | set) else None for one in given]
        return ["value", self._out(result), changed]

    def _set(self, one: Any, name: str, value: Any) -> list[Any]:
        setattr(self._in(one), name, self._in(value))
        return ["value", None]

    def _special(self, name: str, one: Any, args: list[Any]) -> list[Any]:
        target, given = self._in(one), [self._in(arg) for arg in args]
        # Not the method itself, which may be missing or say NotImplemented: what Python makes of it.
        operation = getattr(operator, name, None) or _BUILT_IN.get(name) or getattr(type(target), name)
        return ["value", self._out(operation(target, *given))]

    def _in(self, data: Any) -> Any:
        return decode(data, self._resolved)

    def _resolved(self, data: list[Any]) -> Any:
        mark, number = data
        return self._objects[number] if mark == "o" else self._callback(number)

    def _callback(self, number: int) -> Callable[..., Any]:
        """A function of the tests."""

        def call(*args: Any) -> Any:
            self._send(["callback", number, [self._out(one) for one in args]])
            kind, *rest = json.loads(next(self._requests))
            if kind == "raised":
                raise RuntimeError(rest[0])
            return self._in(rest[0])

        return call

    def _out(self, value: Any) -> Any:
        try:
            return encode(value, self._refer)
        except RecursionError:
            return self._refer(value)

    def _refer(self, value: Any) -> list[Any]:
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["x", value.__name__, [base.__name__ for base in value.__mro__]]
        number = next(self._numbers)
        self._objects[number] = value
        return ["o", number]

    def _raised(self, error: BaseException) -> list[Any]:
        kind = type(error)
        return [kind.__name__, str(error)[:500], [base.__name__ for base in kind.__mro__]]


class _Module(type(sys)):  # type: ignore[misc]
    """The program as a module, for those that import themselves."""

    def __init__(self, name: str, names: dict[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(names)


def main() -> None:
    """Serve on the descriptors that the arguments name."""
    sys.set_int_max_str_digits(0)
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    requests, replies = (int(one) for one in sys.argv[1:3])
    with os.fdopen(requests) as incoming, os.fdopen(replies, "w") as outgoing:
        Server(incoming, outgoing).serve()


if __name__ == "__main__":
    main()
