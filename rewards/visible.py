"""Text from strangers, made fit to be shown on a terminal, in a log or on one line of a report."""

from __future__ import annotations

__all__ = ["visible"]


def visible(text: str) -> str:
    """The text on one line, each character that does not print (controls, escapes, marks of direction) as its escape.

    Backslashes stay as they are: this is for people to read, not for programs to undo.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
