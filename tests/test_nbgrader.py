"""nbgrader's own commands on the course's folder: the same marks, and pages that run no student's script."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbconvert.exporters import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell
from traitlets.config import Config

from autograder.classroom.gradebook import configure
from autograder.classroom.sample_class import write_class
from tests.test_grading import grade, marks_in_gradebook

SCRIPT = "<script>document.title='taken'</script>"
# What a browser would run if it stood in a page as it is; escaped, it is only shown.
DANGEROUS = re.compile(r"<script>document|<img[^>]*onerror|<iframe|<svg[^>]*onload|href=.javascript:")
SHOWN = f"""
from IPython.display import HTML, Javascript, Markdown, SVG, display
display(HTML({SCRIPT!r} + "<img src=x onerror=alert(1)><iframe src='javascript:alert(1)'></iframe>"))
display(Javascript("document.title='taken'"))
display(Markdown({SCRIPT!r}))
display(SVG('<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>document.title=1</script></svg>'))
print({SCRIPT!r}, "\\x1b]0;taken\\x07\\x1b[31mred")
raise ValueError({SCRIPT!r})
"""


def nbgrader(*arguments: str, folder: Path) -> str:
    command = [str(Path(sys.executable).with_name("nbgrader")), *arguments]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class of three, graded; one of them shows scripts wherever a notebook can."""
    root = tmp_path_factory.mktemp("nbgrader")
    list(write_class(root / "class", 3, 2, ["softmax"]))
    path = min((root / "class").glob("*/softmax.ipynb"))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [
        new_markdown_cell(SCRIPT + "<img src=x onerror=alert(1)> [here](javascript:alert(1))"),
        new_code_cell(SHOWN),
    ]
    nbformat.write(notebook, path)
    grade(root / "class", root / "course")
    return root / "course"


def test_autograde_by_nbgrader_gives_the_same_marks(course: Path) -> None:
    before = marks_in_gradebook(course, "softmax")
    assert len(set(before.values())) > 1
    nbgrader("autograde", "softmax", "--force", folder=course)
    assert marks_in_gradebook(course, "softmax") == before


def test_feedback_runs_no_script(course: Path) -> None:
    nbgrader("generate_feedback", "softmax", "--force", folder=course)
    pages = sorted(course.glob("feedback/*/softmax/softmax.html"))
    assert len(pages) == 3
    text = pages[0].read_text(encoding="utf-8")
    assert "ValueError" in text
    assert not DANGEROUS.findall(text)
    # nbgrader's own page has scripts; a student's cell brings none along.
    assert all(page.read_text(encoding="utf-8").count("<script") == text.count("<script") for page in pages)


def test_formgrader_shows_no_script(course: Path) -> None:
    """Formgrader takes its pages from an exporter with the same settings."""
    exporter = HTMLExporter(config=configure(Config(), course))
    page, _ = exporter.from_filename(str(min(course.glob("autograded/*/softmax/softmax.ipynb"))))
    assert not DANGEROUS.findall(page)


def test_feedback_shows_no_hidden_input_or_source(course: Path) -> None:
    nbgrader("generate_feedback", "softmax", "--force", folder=course)
    for page in course.glob("feedback/*/softmax/softmax.html"):
        text = page.read_text(encoding="utf-8")
        assert "BEGIN HIDDEN" not in text
        assert "autograder.exams" not in text
        assert "points" in text


def test_export_gives_the_marks(course: Path) -> None:
    nbgrader("export", folder=course)
    with (course / "grades.csv").open(encoding="utf-8", newline="") as file:
        marks = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert marks == marks_in_gradebook(course, "softmax")
