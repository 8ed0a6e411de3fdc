"""Makes the notebooks that students get from the solutions."""

from __future__ import annotations

import tempfile
from pathlib import Path

from traitlets.config import Config

from autograder.classroom.gradebook import Course
from autograder.notebooks.translate import exercise_path

WITHOUT_GRADEBOOK = Config({"GenerateAssignment": {"no_database": True}, "SaveCells": {"enabled": False}})


def student_notebook(topic: str) -> bytes:
    """The students' notebook of ``topic`` as nbgrader releases it, the same bytes each time.

    Raises:
        CourseError: the solution's cells are not in order.
    """
    # A folder of its own: one with graded submissions in it would hold nbgrader to its old cells.
    with tempfile.TemporaryDirectory() as folder:
        return Course(Path(folder), WITHOUT_GRADEBOOK).release(topic).read_bytes()


def build(topic: str) -> bool:
    """Writes ``chapters/exercises/<topic>.ipynb``, and tells whether that changed it."""
    path, content = exercise_path(topic), student_notebook(topic)
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return True
