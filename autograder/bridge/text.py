"""Text from the other side, made fit to be shown."""

from __future__ import annotations

from unicodedata import category


def readable(text: str) -> str:
    """``text`` without what would steer a terminal, turn its direction or not go into a file."""
    return "".join(char if char in "\n\t" or category(char)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for char in text)
