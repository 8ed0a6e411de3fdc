"""A topic's solution, ``solutions/<topic>.py``, as the notebook that nbgrader makes the students' one from.

Short cell keys stand for nbgrader's metadata::

    # %% exercise="softmax"         the student's cell, with ### BEGIN SOLUTION and ### END SOLUTION
    # %% visible="softmax"          locked asserts that predict the mark and are not graded
    # %% exam="softmax" points=3    empty: the graded cell, whose hidden region is written here
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from autograder.course import CourseError, course_root

EXERCISE, VISIBLE, EXAM = "exercise", "visible", "exam"

EXAM_SOURCE = """\
# Graded: `autograder check` shows what this cell is worth. Leave it as it is.
### BEGIN HIDDEN TESTS
from autograder import mark

mark("{name}", globals(), points={points:g})
### END HIDDEN TESTS"""


def solution_path(topic: str) -> Path:
    """Where the only source of a topic's exercises lies."""
    return course_root() / "solutions" / f"{topic}.py"


def exercise_path(topic: str) -> Path:
    """Where the notebook that students get lies."""
    return course_root() / "chapters" / "exercises" / f"{topic}.ipynb"


def cell_id(key: str, name: str) -> str:
    """The id of an exercise's cell, and nbgrader's name for it: ``exam-softmax``."""
    return f"{key}-{name}"


def exam_of(cell: NotebookNode) -> str | None:
    """The exercise that a cell grades, or None where it is no exam cell."""
    key, _, name = str(cell.metadata.get("nbgrader", {}).get("grade_id", "")).partition("-")
    return name if key == EXAM and name and cell.cell_type == "code" else None


def exercises_of(notebook: NotebookNode) -> tuple[str, ...]:
    """The exercises that a notebook has exam cells for, in its order."""
    return tuple(name for cell in notebook.cells if (name := exam_of(cell)) is not None)


def source_notebook(topic: str, points: Mapping[str, float] | None = None) -> NotebookNode:
    """The instructor's notebook: solutions in it, nbgrader's metadata on it, ids that never change.

    ``points`` replaces those of the exercises that it names.

    Raises:
        CourseError: a key is wrong, missing or used twice, or there is no exercise that ``points`` names.
    """
    path = solution_path(topic)
    script = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    for cell in script.cells:
        if points and cell.metadata.get(EXAM) in points:
            cell.metadata["points"] = points[cell.metadata[EXAM]]
    for unknown in set(points or ()) - {cell.metadata.get(EXAM) for cell in script.cells}:
        raise CourseError(f"{topic} has no exercise called {unknown!r} that could have other points.")
    cells = [_translated(cell, topic, place, path) for place, cell in enumerate(script.cells)]
    _check_keys([cell.id for cell in cells], path)
    notebook: NotebookNode = new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
            "autograder": {"topic": topic},
        },
    )
    return notebook


def _translated(cell: NotebookNode, topic: str, place: int, path: Path) -> NotebookNode:
    """A py:percent cell with nbgrader's metadata in place of its key."""
    keys = [key for key in (EXERCISE, VISIBLE, EXAM) if key in cell.metadata]
    if not keys:
        new_cell: Callable[..., NotebookNode] = new_markdown_cell if cell.cell_type == "markdown" else new_code_cell
        return new_cell(cell.source, id=f"{topic}-{place}")
    if len(keys) > 1:
        raise CourseError(f"{path.name}: a cell can't be both {' and '.join(keys)}.")
    key, name = keys[0], cell.metadata[keys[0]]
    source, metadata = cell.source, _nbgrader(key, name)
    if key == VISIBLE:
        # "Run all" goes on past a cell that may fail: as released, the asserts do.
        metadata["tags"] = ["raises-exception"]
    if key == EXAM:
        if source or "points" not in cell.metadata:
            raise CourseError(f'{path.name}: the cell exam="{name}" has to be empty and to say its points.')
        points = float(cell.metadata["points"])
        metadata["nbgrader"]["points"] = points
        source = EXAM_SOURCE.format(name=name, points=points)
    translated: NotebookNode = new_code_cell(source, id=cell_id(key, name), metadata=metadata)
    return translated


def _nbgrader(key: str, name: str) -> dict[str, Any]:
    return {
        "nbgrader": {
            "grade": key == EXAM,
            "grade_id": cell_id(key, name),
            "locked": key != EXERCISE,
            "schema_version": 3,
            "solution": key == EXERCISE,
            "task": False,
        }
    }


def _check_keys(ids: list[str], path: Path) -> None:
    """Every exercise has one cell for the student and one exam, and no cell's id comes twice."""
    for twice in sorted({name for name in ids if ids.count(name) > 1}):
        raise CourseError(f"{path.name}: there are two cells {twice}.")
    exercises, exams = set(_names(ids, EXERCISE)), set(_names(ids, EXAM))
    for lonely in sorted(exercises ^ exams):
        missing = EXAM if lonely in exercises else EXERCISE
        raise CourseError(f'{path.name}: {lonely} has no cell {missing}="{lonely}".')


def _names(ids: list[str], key: str) -> Iterator[str]:
    return (name.removeprefix(f"{key}-") for name in ids if name.startswith(f"{key}-"))
