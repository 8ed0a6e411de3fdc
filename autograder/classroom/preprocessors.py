"""The places where nbgrader hands a submission to the course: before it is cleaned, to be run, and to be shown."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import bleach
import nbformat
from nbconvert.filters import markdown2html
from nbformat import NotebookNode
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Float, Integer, List, Unicode

from autograder.classroom.intake import PROBLEM, put_right
from autograder.classroom.marking import mark_notebook
from autograder.classroom.seeds import derived_seed, exam_fingerprint, secret
from autograder.sandbox.steps import Limits

Resources = dict[str, Any]

HARMLESS = {
    *("p", "br", "hr", "a", "em", "strong", "code", "pre", "blockquote", "ul", "ol", "li", "span", "div"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "del", "sub", "sup"),
}


class RepairNotebook(NbGraderPreprocessor):  # type: ignore[misc]  # nbgrader has no types
    """Puts back what is missing or was changed, so that nbgrader finds the cells that it expects."""

    course = Unicode(help="The course folder.").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: Resources) -> tuple[NotebookNode, Resources]:
        """Repairs ``nb`` and notes in its metadata what was changed."""
        topic = resources["nbgrader"]["notebook"]
        released = nbformat.read(Path(self.course) / "release" / topic / f"{topic}.ipynb", as_version=4)
        put_right(nb, released, topic, [], nb.metadata.get("autograder", {}).get(PROBLEM))
        return nb, resources


class MarkNotebook(NbGraderPreprocessor):  # type: ignore[misc]  # nbgrader has no types
    """Stands where nbgrader runs the notebook in a kernel; the exam cells are written, not run."""

    course = Unicode(help="The course folder.").tag(config=True)
    devices = List(Unicode(), help="The devices to examine on; empty for all that are present.").tag(config=True)
    step_seconds = Float(Limits.step_seconds, help="The most time for a cell or an exam.").tag(config=True)
    total_seconds = Float(Limits.total_seconds, help="The most time for a submission.").tag(config=True)
    memory_bytes = Integer(Limits.memory_bytes, help="The most memory for a submission.").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: Resources) -> tuple[NotebookNode, Resources]:
        """Writes the outputs of ``nb``."""
        about = resources["nbgrader"]
        key, fingerprint = secret(Path(self.course)), exam_fingerprint(about["notebook"])
        mark_notebook(
            nb,
            partial(derived_seed, key, fingerprint),
            limits=Limits(self.step_seconds, self.total_seconds, self.memory_bytes),
            devices=tuple(self.devices) or None,
            problem=nb.metadata.autograder.get(PROBLEM),
        )
        return nb, resources


class CleanMarkdown(NbGraderPreprocessor):  # type: ignore[misc]  # nbgrader has no types
    """Takes out of a student's Markdown what a browser would run; nbgrader's templates pass it on as it is."""

    def preprocess_cell(self, cell: NotebookNode, resources: Resources, index: int) -> tuple[NotebookNode, Resources]:
        """Renders the cell and keeps the harmless tags and links."""
        if cell.cell_type == "markdown":
            clean = bleach.clean(markdown2html(cell.source), tags=HARMLESS, attributes={"a": ["href"]})
            # It is rendered once more: what was no link the first time must not become one then.
            cell.source = clean.replace("[", "&#91;")
        return cell, resources
