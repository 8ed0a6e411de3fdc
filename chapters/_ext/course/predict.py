"""``{predict} id``: a question with a field for a number, to be answered before the measured one is shown.

The answer is ``reveal(id, ...)`` in a later code cell (``lesson.py``); ``predict.js`` joins the two.
Without JavaScript both are simply there.
"""

from __future__ import annotations

from html import escape
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FORM = """
<form class="predict-form" data-predict="{id}" data-unit="{unit}" hidden>
  <label for="guess-{id}">Your guess{in_unit}</label>
  <input id="guess-{id}" type="number" step="any" inputmode="decimal" autocomplete="off" required>
  <button type="submit">Compare</button>
  <a class="predict-onwards" href="#measured-{id}" hidden>See what was measured</a>
</form>
"""


class PredictDirective(SphinxDirective):
    """The question is the body; ``:unit:`` is shown behind the numbers."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"unit": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        self.assert_has_content()
        name, unit = escape(self.arguments[0]), escape(self.options.get("unit", ""))
        box = nodes.admonition(classes=["predict"])
        box += nodes.title(text="Predict, then run")
        self.state.nested_parse(self.content, self.content_offset, box)
        box += nodes.raw("", FORM.format(id=name, unit=unit, in_unit=unit and f" ({unit})"), format="html")
        return [box]


def load_script(app: Sphinx, _page: str, _template: str, _context: dict[str, Any], doctree: nodes.document) -> None:
    """Load the script on the pages that ask something."""
    if doctree is not None and any("predict" in box["classes"] for box in doctree.findall(nodes.admonition)):
        app.add_js_file("predict.js", loading_method="defer")


def register(app: Sphinx) -> None:
    """Add the directive and the hook that loads its script."""
    app.add_directive("predict", PredictDirective)
    app.connect("html-page-context", load_script)
