"""What can be read of a notebook file, whatever is in it, and which topic it belongs to."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from autograder.course import CourseError, topics
from autograder.notebooks.repair import handed_out, names_of, repair
from autograder.notebooks.translate import exercise_path

# Larger than any notebook with all its figures; reading a file of gigabytes would stop the class.
MOST_BYTES = 50_000_000
# More than any notebook; each is a step of its own.
MOST_CELLS = 1000
# Where a notebook's metadata says what was put right, or why it can't be marked.
REPAIRS, PROBLEM = "repairs", "problem"
# What nbformat takes for one.
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def readable(text: str) -> str:
    """``text``, with what can't be written as UTF-8 spelt out: a file's name may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def read_notebook(path: Path) -> tuple[NotebookNode, list[str]]:
    """A notebook in today's format, and what was odd about the file.

    Raises:
        CourseError: there is none at ``path``.
    """
    if not path.exists():
        raise CourseError(f"There is no file {path}.")
    if not path.is_file():
        raise CourseError(f"{path.name} is not a file.")
    if path.stat().st_size > MOST_BYTES:
        raise CourseError(f"{path.name} is larger than {MOST_BYTES // 10**6} MB: clear its outputs.")
    content = path.read_bytes()
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise CourseError(f"{path.name} is not a notebook: it is not text in UTF-8.") from None
    except ValueError as error:
        empty = "the file is empty" if not content.strip() else f"it is not JSON ({error})"
        raise CourseError(f"{path.name} is not a notebook: {empty}.") from None
    except RecursionError:
        raise CourseError(f"{path.name} is not a notebook: its JSON is nested too deeply.") from None
    if isinstance(data, dict) and isinstance(data.get("worksheets"), list):
        raise CourseError(f"{path.name} is a notebook of before 2015 (format 3): open and save it in Jupyter.")
    if not isinstance(data, dict) or not isinstance(data.get("cells"), list):
        raise CourseError(f"{path.name} is not a notebook: it has no list of cells.")
    if len(data["cells"]) > MOST_CELLS:
        raise CourseError(f"{path.name} has more than {MOST_CELLS} cells.")
    notes = ["the file began with a byte-order mark"] if content.startswith(codecs.BOM_UTF8) else []
    notebook, cleaned = _cleaned(data)
    return notebook, notes + cleaned


def refuse_link(path: Path, folder: Path) -> None:
    """A link could lead to the solutions, or to another student's work, and the feedback would show it.

    Raises:
        CourseError: ``path``, or a folder between it and ``folder``, is one.
    """
    if path.resolve() != folder.resolve() / path.relative_to(folder):
        raise CourseError(f"{path.name} is a link: what it leads to is not read.")


def put_right(
    notebook: NotebookNode, released: NotebookNode, topic: str, notes: list[str], problem: str | None
) -> None:
    """Gives ``notebook`` the graded cells of ``released``, and says in its metadata what was done to it before and now.

    With a ``problem`` it is a notebook that could not be read, and that is all that there is to say.
    """
    done = repair(notebook, released)
    about = {REPAIRS: notes + done} if problem is None else {PROBLEM: problem}
    notebook.metadata = from_dict({**released.metadata, "autograder": {"topic": topic, **about}})


def topic_of(notebook: NotebookNode, path: Path, expected: str | None = None) -> str:
    """The topic whose exercises a notebook holds; ``expected``, or its file's name, where the cells no longer tell.

    Raises:
        CourseError: it holds none of the course's, or those of another topic than it was handed in for.
    """
    name = expected or path.stem
    found = set(names_of(notebook))
    shared = {topic: len(found & _names_in(exercise_path(topic))) for topic in topics() if is_released(topic)}
    topic = max(shared, key=lambda name: shared[name], default="")
    if not any(shared.values()):
        if name in shared:
            return name
        raise CourseError(f"{path.name} holds no exercise of this course.")
    if name in shared and name != topic:
        raise CourseError(f"{path.name} holds the exercises of {topic}, not those of {name}.")
    return topic


@lru_cache
def _names_read(path: Path, changed: int) -> frozenset[str]:
    return frozenset(handed_out(nbformat.read(path, as_version=4)))


def _names_in(path: Path) -> frozenset[str]:
    """The names of the graded cells that students got, read once."""
    return _names_read(path, path.stat().st_mtime_ns)


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


def _cleaned(data: dict[str, Any]) -> tuple[NotebookNode, list[str]]:
    """What of a notebook's JSON is used: sources, and by what name nbgrader and Jupyter know a cell."""
    makers: dict[str, Callable[..., NotebookNode]] = {
        "code": new_code_cell,
        "markdown": new_markdown_cell,
        "raw": new_raw_cell,
    }
    cells: list[NotebookNode] = []
    taken: set[str] = set()
    named = {_grade_id_of(raw) for raw in data["cells"] if isinstance(raw, dict)}
    for place, raw in enumerate(data["cells"]):
        if not isinstance(raw, dict) or str(raw.get("cell_type")) not in makers:
            continue
        lines = raw.get("source", "")
        source = "".join(map(_text, lines)) if isinstance(lines, list) else _text(lines)
        cell = makers[raw["cell_type"]](re.sub(r"\r\n?", "\n", source))
        name, known = _grade_id_of(raw), _id_of(raw)
        if name is not None:
            cell.metadata["nbgrader"] = NotebookNode(grade_id=name)
        if known in taken and known not in named:
            # nbformat has no two cells of one id; repair tells by the name which of them counts.
            cell.metadata.setdefault("nbgrader", NotebookNode(grade_id=known))
        cell.id = f"cell-{place}" if known is None or known in taken else known
        taken.add(cell.id)
        cells.append(cell)
    lost = len(data["cells"]) - len(cells)
    notes = [f"{lost} cells of no known type were left out"] if lost else []
    notebook: NotebookNode = new_notebook(cells=cells)
    return notebook, notes


def _grade_id_of(raw: dict[str, Any]) -> str | None:
    """nbgrader's name for a cell."""
    match raw:
        case {"metadata": {"nbgrader": {"grade_id": str(name)}}}:
            return _text(name)
    return None


def _id_of(raw: dict[str, Any]) -> str | None:
    """A cell's id; Colab keeps it among the metadata."""
    metadata = raw.get("metadata")
    for known in (raw.get("id"), metadata.get("id") if isinstance(metadata, dict) else None):
        if CELL_ID.fullmatch(_text(known)):
            return str(known)
    return None


def _text(value: Any) -> str:
    """Text that can be written to a file, which a lone surrogate can't; nothing where a notebook has no text."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
