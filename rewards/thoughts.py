"""A response without its thoughts: what a reader gets to see."""

from __future__ import annotations

__all__ = ["without_thoughts"]

# Thoughts as models mark them; where the chat template opens them, a response has the end alone.
_MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis", "<|channel|>final<|message|>"),
)


def without_thoughts(text: str) -> str | None:
    """What follows the last thoughts; None if thoughts were begun and not ended."""
    end = max(text.rfind(mark) + len(mark) if mark in text else 0 for _, mark in _MARKS)
    answer = text[end:]
    return None if any(mark in answer for mark, _ in _MARKS) else answer
