"""``{interactive} name``: a figure that the reader can move, put into the page as it stands in ``_static/figures``.

The HTML already holds the default state as a picture; the script of the same name is loaded on no other page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FIGURES = Path(__file__).parents[2] / "_static" / "figures"


class InteractiveDirective(SphinxDirective):
    """Insert the figure; ``:alt:`` says in words what it shows, for listeners and for other formats than HTML."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        page = FIGURES / f"{name}.html"
        if not page.is_file():
            raise self.error(f"there is no figure {page.name} in {FIGURES.name}/")
        self.env.note_dependency(str(page))
        figure = nodes.container(classes=["interactive-figure"])
        figure += nodes.raw("", page.read_text(encoding="utf-8"), format="html", interactive=name)
        if alt := self.options.get("alt"):
            # Readers of a screen hear the figure's own labels; what is drawn is said once, before them.
            figure.insert(0, nodes.paragraph(text=alt, classes=["figure-description"]))
        return [figure]


def load_scripts(app: Sphinx, _page: str, _template: str, _context: dict[str, Any], doctree: nodes.document) -> None:
    """Add the scripts of a page's figures, and the figures' style sheet, to that page alone."""
    if doctree is None:
        return
    names = sorted({raw["interactive"] for raw in doctree.findall(nodes.raw) if "interactive" in raw})
    if names:
        app.add_css_file("figures.css")
    for name in names:
        app.add_js_file(f"figures/{name}.js", loading_method="defer")


def register(app: Sphinx) -> None:
    """Add the directive and the hook that loads its scripts."""
    app.add_directive("interactive", InteractiveDirective)
    app.connect("html-page-context", load_scripts)
