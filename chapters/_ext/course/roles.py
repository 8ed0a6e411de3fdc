"""``{query}`x` ``, ``{key}`x` `` and ``{value}`x` ``: text in the colour and with the shape of its role."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole


class _Role(SphinxRole):
    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        return [nodes.inline(self.rawtext, self.text, classes=["role", f"role-{self.name}"])], []


def register(app: Sphinx) -> None:
    """Add the three text roles."""
    for name in ("query", "key", "value"):
        app.add_role(name, _Role())
