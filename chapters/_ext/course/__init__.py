"""The course's own Sphinx extension: three directives, three text roles, and a site that asks no other host."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from . import assets, execution, interactive, misconceptions, predict, roles


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    for part in (assets, execution, interactive, misconceptions, predict, roles):
        part.register(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
