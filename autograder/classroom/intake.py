"""What can be read of a notebook file, whatever is in it, and which topic it belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from autograder.course import CourseError, topics
from autograder.notebooks.repair import handed_out, name_of
from autograder.notebooks.translate import exercise_path

# Larger than any notebook with all its figures; reading a file of gigabytes would stop the class.
MOST_BYTES = 50_000_000
# More than any notebook; each is a step of its own.
MOST_CELLS = 1000
# What nbformat takes for one.
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def read_notebook(path: Path) -> NotebookNode:
    """A notebook in today's format.

    Raises:
        CourseError: there is none at ``path``.
    """
    if not path.is_file():
        raise CourseError(f"There is no file {path}.")
    if path.stat().st_size > MOST_BYTES:
        raise CourseError(f"{path.name} is larger than {MOST_BYTES // 10**6} MB: clear its outputs.")
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise CourseError(f"{path.name} is not a notebook: it is not text in UTF-8.") from None
    except ValueError as error:
        raise CourseError(f"{path.name} is not a notebook: it is not JSON ({error}).") from None
    except RecursionError:
        raise CourseError(f"{path.name} is not a notebook: its JSON is nested too deeply.") from None
    if not isinstance(data, dict) or not isinstance(data.get("cells"), list):
        raise CourseError(f"{path.name} is not a notebook: it has no list of cells.")
    if len(data["cells"]) > MOST_CELLS:
        raise CourseError(f"{path.name} has more than {MOST_CELLS} cells.")
    return _cleaned(data)


def topic_of(notebook: NotebookNode, path: Path) -> str:
    """The topic whose exercises a notebook holds; its file's name where the cells no longer tell.

    Raises:
        CourseError: it holds none of the course's, or those of another topic than its file is named after.
    """
    found = {name_of(cell) for cell in notebook.cells}
    shared = {topic: len(found & set(handed_out(released_notebook(topic)))) for topic in topics() if is_released(topic)}
    topic = max(shared, key=lambda name: shared[name], default="")
    if not any(shared.values()):
        if path.stem in shared:
            return path.stem
        raise CourseError(f"{path.name} holds no exercise of this course.")
    if path.stem in shared and path.stem != topic:
        raise CourseError(f"{path.name} holds the exercises of {topic}, not those of {path.stem}.")
    return topic


def is_released(topic: str) -> bool:
    """Whether the students' notebook of ``topic`` has been built."""
    return exercise_path(topic).is_file()


def released_notebook(topic: str) -> NotebookNode:
    """The notebook that students got.

    Raises:
        CourseError: it has not been built.
    """
    if not is_released(topic):
        raise CourseError(f"There is no {topic}.ipynb for students yet: run `autograder build`.")
    notebook: NotebookNode = nbformat.read(exercise_path(topic), as_version=4)
    return notebook


def _cleaned(data: dict[str, Any]) -> NotebookNode:
    """What of a notebook's JSON is used: sources, and by what name nbgrader and Jupyter know a cell."""
    makers: dict[str, Callable[..., NotebookNode]] = {
        "code": new_code_cell,
        "markdown": new_markdown_cell,
        "raw": new_raw_cell,
    }
    cells = []
    for raw in data["cells"]:
        if not isinstance(raw, dict) or str(raw.get("cell_type")) not in makers:
            continue
        lines = raw.get("source", "")
        cell = makers[raw["cell_type"]]("".join(map(_text, lines)) if isinstance(lines, list) else _text(lines))
        match raw:
            case {"metadata": {"nbgrader": {"grade_id": str(name)}}}:
                cell.metadata["nbgrader"] = NotebookNode(grade_id=_text(name))
        if CELL_ID.fullmatch(_text(raw.get("id"))):
            cell.id = raw["id"]
        cells.append(cell)
    notebook: NotebookNode = new_notebook(cells=cells)
    return notebook


def _text(value: Any) -> str:
    """Text that can be written to a file, which a lone surrogate can't; nothing where a notebook has no text."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
