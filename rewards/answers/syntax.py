"""The little languages that reasoning-gym's verifiers would have Python evaluate: parsed here, and worked out by hand.

Python's own parser reads the text and runs nothing; what it makes is a tree, in which only listed kinds of nodes
are followed. Everything else is a ValueError: names that lead to objects, attributes, calls of anything but a listed
mathematical function, comprehensions, strings that are formatted.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

MAX_CHARACTERS = 20_000
MAX_LEVELS = 200
"""Levels of the tree of an expression."""
MAX_DEPTH = 40
MAX_DIGITS = 50
MAX_EXPONENT = 1_000
"""Of a symbol or a function; of a sum it is a tenth, because expanding it takes the square."""
MAX_BITS = 4_096
"""Size of a number that a power may have."""

_NAMES = "sin cos tan cot sec csc asin acos atan sinh cosh tanh asinh acosh atanh exp log ln sqrt Abs"
FUNCTIONS = frozenset(_NAMES.split())
_NESTED = re.compile(r"[\[({]|[\])}]")
_WRITTEN = str.maketrans({"\u00d7": "*", "\u00b7": "*", "\u22c5": "*", "\u00f7": "/", "\u2212": "-", "\u2013": "-"})
_LATEX = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": "", "^": "**"}
_SUPERSCRIPTS = re.compile("\u207b?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_BITS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    **{op: _ARITHMETIC[op] for op in (ast.Add, ast.Sub, ast.Mult)},
    ast.LShift: lambda number, by: number << min(by, MAX_BITS),
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}


def literal(text: str) -> Any:
    """The value of a list, tuple, number or quoted text, nested as one likes; raises ValueError for anything else."""
    return _literal(_tree(text))


def arithmetic(text: str) -> Fraction:
    """The value of whole numbers joined by `+ - * /` and parentheses; raises ValueError for anything else."""
    value: Fraction = _folded(_tree(text), _ARITHMETIC, Fraction)
    return value


def bits(text: str) -> int:
    """The value of whole numbers joined by `+ - * << >> & | ^`; raises ValueError for anything else."""
    return int(_folded(_tree(text), _BITS, int))


def formula(text: str, symbols: Mapping[str, Any] | None = None, functions: frozenset[str] = FUNCTIONS) -> Any:
    """The sympy expression of a formula; raises ValueError for what is none, or is too large.

    Args:
        text: numbers, names, `+ - * / **` and calls of functions.
        symbols: what stands for a name; other single letters are symbols, `E`, `I` and `pi` the constants.
        functions: names of sympy that may be called.
    """
    return _Formula(symbols or {}, functions).value(_tree(text))


def plain_operators(text: str) -> str:
    """The formula with Python's operators for what people write as a cross, a dot, a division sign or a superscript."""
    text = text.translate(_WRITTEN)
    for written, meant in _LATEX.items():
        text = text.replace(written, meant)
    text = _SUPERSCRIPTS.sub(lambda match: f"**({unicodedata.normalize('NFKC', match.group())})", text)
    return text.translate(_WRITTEN)


def _tree(text: str) -> ast.expr:
    """The parsed text. Raises ValueError if it is too long or too deep for the parser, or no expression."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{len(text)} characters; at most {MAX_CHARACTERS} are read")
    depth = 0
    for bracket in _NESTED.finditer(text):
        depth += 1 if bracket.group() in "[({" else -1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"cannot be parsed: {error}") from error
    _check_depth(tree)
    return tree


def _check_depth(tree: ast.expr) -> None:
    """Raise ValueError if signs and operators are nested deeper than what follows the tree can go."""
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_LEVELS:
            raise ValueError(f"more than {MAX_LEVELS} signs and operators inside each other")
        waiting += ((child, depth + 1) for child in ast.iter_child_nodes(node))


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.List(elts=items):
            return [_literal(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_literal(item) for item in items)
        case ast.Constant(value=str() as text):
            return text
        case ast.Constant() | ast.UnaryOp():
            return _number(node)
    raise ValueError(f"{type(node).__name__} is no list, number or text")


def _number(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            if abs(number) >= 10**MAX_DIGITS:
                raise ValueError(f"a number of more than {MAX_DIGITS} digits")
            return number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() as operand):
            return -_number(operand)
    raise ValueError(f"{ast.dump(node)[:40]} is no number")


def _folded(node: ast.expr, operators: Mapping[type[ast.operator], Callable[[Any, Any], Any]], number: type) -> Any:
    """The value of a tree of whole numbers, signs and listed operators."""
    match node:
        case ast.Constant(value=int()):
            return number(_number(node))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _folded(operand, operators, number)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in operators:
            try:
                return operators[type(op)](_folded(left, operators, number), _folded(right, operators, number))
            except ZeroDivisionError:
                raise ValueError("a division by zero") from None
    raise ValueError(f"{type(node).__name__} is no whole number, operator or parenthesis")


class _Formula:
    def __init__(self, symbols: Mapping[str, Any], functions: frozenset[str]) -> None:
        self._symbols, self._functions = symbols, functions

    def value(self, node: ast.expr) -> Any:
        import sympy

        match node:
            case ast.Constant(value=int() | float()):
                return sympy.sympify(_number(node))
            case ast.Name(id=name):
                return self._named(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.value(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.value(operand)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return self._power(self.value(left), self.value(right))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](self.value(left), self.value(right))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in self._functions:
                return self._called(name, args)
        raise ValueError(f"{type(node).__name__} is no part of a formula")

    def _named(self, name: str) -> Any:
        import sympy

        if name in self._symbols:
            return self._symbols[name]
        constants = {"E": sympy.E, "I": sympy.I, "pi": sympy.pi}
        if name in constants:
            return constants[name]
        if len(name) == 1 and name.isalpha():
            return sympy.Symbol(name)
        raise ValueError(f"{name[:40]!r} is no variable")

    def _called(self, name: str, args: list[ast.expr]) -> Any:
        import sympy

        if not 1 <= len(args) <= 2:
            raise ValueError(f"{name} takes one or two arguments")
        return getattr(sympy, name)(*(self.value(arg) for arg in args))

    @staticmethod
    def _power(base: Any, exponent: Any) -> Any:
        if exponent.is_number:
            size = abs(float(exponent.evalf(15))) if exponent.is_real else math.inf
            if base.is_number:
                size *= math.log2(max(2.0, abs(complex(base.evalf(15)))))
            if size > (MAX_BITS if base.is_number else MAX_EXPONENT / 10 if base.is_Add else MAX_EXPONENT):
                raise ValueError("a power that is too large")
        return base**exponent
