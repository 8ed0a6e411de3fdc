"""Puts a student's notebook in the order that grading needs: every graded cell there once, as it was handed out."""

from __future__ import annotations

from copy import deepcopy

from nbformat import NotebookNode

from autograder.notebooks.translate import EXAM, EXERCISE, VISIBLE, cell_id


def names_of(notebook: NotebookNode) -> list[str | None]:
    """nbgrader's name for each cell, or its id, which is the same, where nbgrader's metadata is gone.

    An id that is another cell's name by its metadata is none: it was copied.
    """
    known = [_grade_id(cell) for cell in notebook.cells]
    ids = [str(cell.id) if "id" in cell else None for cell in notebook.cells]
    return [name or (own if own not in known else None) for name, own in zip(known, ids, strict=True)]


def _grade_id(cell: NotebookNode) -> str | None:
    match cell.metadata:
        case {"nbgrader": {"grade_id": str(name)}}:
            return name
    return None


def handed_out(released: NotebookNode) -> dict[str, NotebookNode]:
    """The cells of a released notebook that nbgrader knows, by name."""
    return {cell.id: cell for cell in released.cells if "nbgrader" in cell.metadata}


def repair(notebook: NotebookNode, released: NotebookNode) -> list[str]:
    """Puts the graded and locked cells of ``released`` back into ``notebook``, and says what it changed.

    A student's own cells and answers are left as they are. Of two cells with one name the last one has it.
    """
    wanted = handed_out(released)
    found: set[str] = set()
    notes: list[str] = []
    cells: list[NotebookNode] = []
    for place, (cell, name) in reversed(list(enumerate(zip(notebook.cells, names_of(notebook), strict=True)))):
        by_id = _grade_id(cell) is None
        cell.metadata = NotebookNode()
        cell.id = f"own-{place}"
        if name in found:
            notes.append(f"there are two cells {name}; the last one counts")
        elif name in wanted and not (by_id and _is_other(cell, wanted[name])):
            found.add(name)
            cell = _restored(cell, wanted[name], notes)
        cells.insert(0, cell)
    for missing in (cell for name, cell in wanted.items() if name not in found):
        if not missing.metadata.nbgrader.solution:
            notes.append(f"the cell {missing.id} was missing")
            _put_back(cells, missing)
    notebook.cells = cells
    return notes


def _is_other(cell: NotebookNode, original: NotebookNode) -> bool:
    """Whether a cell has only the id of a locked one: it may be the student's own work, and stays."""
    return not original.metadata.nbgrader.solution and cell.source.strip() != original.source.strip()


def _restored(cell: NotebookNode, original: NotebookNode, notes: list[str]) -> NotebookNode:
    """The student's source in an answer's cell, the original's anywhere else, and the original's metadata."""
    answer = original.metadata.nbgrader.solution
    if not answer and cell.source.strip() != original.source.strip():
        notes.append(f"the cell {original.id} had been changed")
    if cell.cell_type != original.cell_type:
        notes.append(f"the cell {original.id} had become {cell.cell_type}")
    restored: NotebookNode = deepcopy(original)
    if answer:
        restored.source = cell.source
    return restored


def _put_back(cells: list[NotebookNode], missing: NotebookNode) -> None:
    """Behind the last cell of the same exercise, or at the end."""
    name = missing.id.partition("-")[2]
    family = {cell_id(key, name) for key in (EXERCISE, VISIBLE, EXAM)}
    places = [place for place, cell in enumerate(cells) if cell.id in family]
    cells.insert(places[-1] + 1 if places else len(cells), deepcopy(missing))
