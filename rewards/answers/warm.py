"""What sympy makes from text of its own when it is first needed, made early: `sealed.py` runs no text.

These are the names for numerical work, the table of integrals, and the formulas of hypergeometric functions.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import sympy

for _name in ("math", "mpmath", "sympy", "numpy", "scipy"):
    with contextlib.suppress(ImportError):
        importlib.import_module("sympy.utilities.lambdify")._import(_name)

_x = sympy.Symbol("x")
importlib.import_module("sympy.integrals.meijerint")._rewrite_single(sympy.exp(_x), _x)
_formulas: Any = importlib.import_module("sympy.simplify.hyperexpand")
_formulas._collection = _formulas._collection or _formulas.FormulaCollection()
_formulas._meijercollection = _formulas._meijercollection or _formulas.MeijerFormulaCollection()
