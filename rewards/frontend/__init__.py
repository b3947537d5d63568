"""Front-end code as a reward: is it well-formed, does it work, does it look good? Each stage gates the next.

The triple filter "Syntax - Function - Aesthetics" of the Ling 2.0 report (section 4.2.1, figure 9). The names below are
imported when they are first used, because the stages need a browser, parsers and image libraries.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Page": "extract",
    "extract_page": "extract",
    "SyntaxReport": "syntax",
    "check_syntax": "syntax",
    "FunctionReport": "function",
    "exercise": "function",
    "parse_checks": "assertions",
    "run_checks": "assertions",
    "aesthetics_from_image": "aesthetics",
    "judged_aesthetics": "visual_judge",
    "compare": "visual_judge",
    "Frontend": "reward",
    "close_shared_browser": "browser",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import what is asked for from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
