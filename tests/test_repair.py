"""Whatever a student did to the graded cells, each is there once, as it was handed out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from autograder.notebooks.repair import repair


def graded_cell(key: str, source: str) -> NotebookNode:
    about = {"grade": key == "exam", "solution": key == "exercise", "locked": key != "exercise", "points": 2.0}
    name = f"{key}-f"
    cell: NotebookNode = new_code_cell(
        source, id=name, metadata={"nbgrader": {"grade_id": name, "schema_version": 3, **about}}
    )
    return cell


def handed_out() -> NotebookNode:
    cells = [
        new_code_cell("import torch", id="topic-0"),
        graded_cell("exercise", "def f(): raise NotImplementedError"),
        graded_cell("visible", "assert f() == 1"),
        graded_cell("exam", "# graded"),
    ]
    notebook: NotebookNode = new_notebook(cells=cells)
    return notebook


def edit(notebook: NotebookNode) -> None:
    notebook.cells[2].source = notebook.cells[3].source = "2"


def retag(notebook: NotebookNode) -> None:
    notebook.cells[3].metadata = {"tags": ["skip-execution"], "nbgrader": {"grade_id": "exam-f", "points": 99}}


def delete(notebook: NotebookNode) -> None:
    del notebook.cells[2:]


def duplicate(notebook: NotebookNode) -> None:
    notebook.cells.append(graded_cell("exam", "2"))


def strip_metadata(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        cell.metadata = {}


def strip_everything(notebook: NotebookNode) -> None:
    strip_metadata(notebook)
    for place, cell in enumerate(notebook.cells):
        cell.id = f"id-{place}"


def spoil_metadata(notebook: NotebookNode) -> None:
    notebook.cells[1].metadata["nbgrader"] = "yes"
    notebook.cells[3].metadata["nbgrader"] = {"grade_id": ["exam-f"]}


def turn_to_text(notebook: NotebookNode) -> None:
    notebook.cells[3] = NotebookNode(cell_type="markdown", id="exam-f", metadata={}, source="# graded")


@pytest.mark.parametrize(
    "harm",
    [edit, retag, delete, duplicate, strip_metadata, strip_everything, spoil_metadata, turn_to_text],
)
def test_graded_cells_come_back(harm: Callable[[NotebookNode], None]) -> None:
    original, notebook = handed_out(), handed_out()
    notebook.cells[1].source = "def f(): return 1"
    harm(notebook)
    notes = repair(notebook, original)
    ids = [cell.id for cell in notebook.cells]
    cells = dict(zip(ids, notebook.cells, strict=True))
    assert len(set(ids)) == len(ids)
    assert cells["exam-f"] == original.cells[3]
    assert cells["visible-f"] == original.cells[2]
    assert "def f(): return 1" in [cell.source for cell in notebook.cells]
    assert ids.index("exam-f") > [cell.source for cell in notebook.cells].index("def f(): return 1")
    assert bool(notes) == (harm not in (retag, strip_metadata, spoil_metadata))


def test_answer_that_was_copied_keeps_its_last_cell() -> None:
    original, notebook = handed_out(), handed_out()
    notebook.cells.insert(2, graded_cell("exercise", "def f(): return 2"))
    repair(notebook, original)
    assert [cell.source for cell in notebook.cells if cell.id == "exercise-f"] == ["def f(): return 2"]
    assert len(notebook.cells) == 5


def test_own_cell_under_the_id_of_a_graded_one_stays() -> None:
    for notebook in (handed_out(), new_notebook(cells=handed_out().cells[:-1])):
        notebook.cells.append(new_code_cell("helper = 1", id="exam-f"))
        repair(notebook, handed_out())
        assert [cell.source for cell in notebook.cells].count("helper = 1") == 1
        assert [cell.source for cell in notebook.cells if cell.id == "exam-f"] == ["# graded"]
