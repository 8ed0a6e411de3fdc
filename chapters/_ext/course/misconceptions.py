"""``{misconceptions} topic``: the "What goes wrong" list of a lesson, taken from the topic's exams."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any, ClassVar
from urllib.parse import urlsplit

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class details(nodes.General, nodes.Element):  # noqa: N801 (docutils names node classes after their element)
    """A part that folds."""


class summary(nodes.General, nodes.TextElement):  # noqa: N801
    """The line of a folded part that stays visible."""


class MisconceptionsDirective(SphinxDirective):
    """Every misconception of a topic, folded by exercise; ``:exercise:`` gives those of one, without its name."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"exercise": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        from autograder.exams import exams_of  # loads torch: only when a page with this directive is read

        topic = self.arguments[0]
        if (spec := find_spec(f"autograder.exams.{topic}")) and spec.origin:
            self.env.note_dependency(spec.origin)
        wanted = self.options.get("exercise")
        exams = [exam for exam in exams_of(topic) if exam.misconceptions and wanted in (None, exam.name)]
        if not exams:
            raise self.error(f"no misconceptions in the catalogue for {wanted or topic}")
        box = nodes.container(classes=["misconceptions"])
        for exam in exams:
            entries = [_folded(misconception) for misconception in exam.misconceptions]
            box += entries if wanted else _exercise(exam.name, entries)
        return [box]


def _exercise(name: str, entries: list[details]) -> details:
    """The mistakes of one exercise under its name and their number."""
    heading = summary()
    heading += nodes.literal(text=name)
    heading += nodes.inline(text=f"{len(entries)} mistakes" if len(entries) > 1 else "1 mistake", classes=["number"])
    return details("", heading, *entries, classes=["misconceptions-exercise"])


def _folded(misconception: Any) -> details:
    """One misconception: its name to unfold; then what one sees, what it is, and where it was seen."""
    entry = details("", summary("", _humanised(misconception.name)), classes=["misconception"])
    entry += _paragraph("What you see", misconception.symptom)
    entry += _paragraph("What it is", misconception.hint)
    if misconception.seen:
        seen = _paragraph("Seen in", "")
        seen += nodes.reference("", _where(misconception.seen), refuri=misconception.seen)
        entry += seen
    return entry


def _paragraph(label: str, text: str) -> nodes.paragraph:
    paragraph = nodes.paragraph()
    paragraph += [nodes.strong(text=label), nodes.Text(" "), *_inline(text)]
    return paragraph


def _inline(text: str) -> list[nodes.Node]:
    """Text with code in backticks; the hints are written for a terminal and hold no other markup."""
    pieces = re.split(r"`+([^`]+)`+", text)
    return [nodes.literal(text=piece) if odd % 2 else nodes.Text(piece) for odd, piece in enumerate(pieces) if piece]


def _humanised(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _where(url: str) -> str:
    """A short name for an address: ``owner/repository #12`` on GitHub, the host elsewhere."""
    parts = urlsplit(url)
    if issue := re.fullmatch(r"/([^/]+/[^/]+)/(?:issues|pull|discussions)/(\d+)", parts.path):
        return f"{issue[1]} #{issue[2]}"
    return "/".join(parts.path.strip("/").split("/")[:2]) if parts.netloc == "github.com" else parts.netloc


def register(app: Sphinx) -> None:
    """Add the directive and its two nodes; formats that can't fold show everything."""

    def start(self: Any, node: nodes.Element) -> None:
        self.body.append(self.starttag(node, type(node).__name__, ""))

    def end(self: Any, node: nodes.Element) -> None:
        self.body.append(f"</{type(node).__name__}>\n")

    def nothing(_self: Any, _node: nodes.Element) -> None:
        pass

    for node in (details, summary):
        app.add_node(node, html=(start, end), latex=(nothing, nothing), text=(nothing, nothing))
    app.add_directive("misconceptions", MisconceptionsDirective)
