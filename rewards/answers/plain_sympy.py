"""sympy for libraries that would have it read text: sympy's own reading is Python's `eval`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolpo.rewards.answers.syntax import FUNCTIONS, formula


class SympyWithoutEval:
    """Stands in for the module `sympy` in a module of another library; all but two functions are sympy's."""

    def __getattr__(self, name: str) -> Any:
        import sympy

        return getattr(sympy, name)

    @staticmethod
    def parse_expr(text: str, local_dict: Mapping[str, Any] | None = None) -> Any:
        """The expression of a formula; raises ValueError for all else."""
        return formula(text, local_dict, FUNCTIONS | {"Integral"})

    @staticmethod
    def Number(text: str) -> Any:  # noqa: N802 - sympy's name
        """The number of some digits, perhaps with a point; raises ValueError for all else."""
        import sympy

        if not text.replace(".", "", 1).isdigit():
            raise ValueError(f"{text[:40]!r} is no number")
        return sympy.Float(text) if "." in text else sympy.Integer(int(text))
