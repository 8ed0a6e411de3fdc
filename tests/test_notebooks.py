"""From a solution to the notebook that students get: nothing lost, nothing given away, the same bytes each time."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from autograder.classroom.intake import released_notebook
from autograder.classroom.marking import mark_notebook, verdicts_of
from autograder.course import CourseError
from autograder.exams import exams_of
from autograder.notebooks.build import student_notebook
from autograder.notebooks.translate import exercise_path, exercises_of, source_notebook
from autograder.sandbox.steps import Limits

ALLOWED = {"torch", "numpy", "matplotlib", *sys.stdlib_module_names}


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_committed_notebook_is_what_the_solution_gives(topic: str) -> None:
    built = student_notebook(topic)
    assert built == student_notebook(topic)
    assert built == exercise_path(topic).read_bytes(), "run `autograder build`"


def test_exercises_are_those_of_the_exams(topic: str) -> None:
    assert exercises_of(released_notebook(topic)) == tuple(exam.name for exam in exams_of(topic))


def test_no_solution_and_no_hidden_test_is_left(topic: str) -> None:
    released = {cell.id: cell.source for cell in released_notebook(topic).cells}
    text = "\n".join(released.values())
    assert not [
        word
        for word in ("SOLUTION", "HIDDEN", "import mark", "mark(", "from autograder", "import autograder")
        if word in text
    ]
    for cell in source_notebook(topic).cells:
        _, found, rest = cell.source.partition("### BEGIN SOLUTION")
        if found:
            solution = [line.strip() for line in rest.partition("### END SOLUTION")[0].splitlines()]
            left = [line for line in solution if line.strip("()[]{}") and line in released[cell.id]]
            assert not left, f"{cell.id} still holds {left}"
            assert "raise NotImplementedError" in released[cell.id]


def test_student_needs_no_other_package(topic: str) -> None:
    for cell in code_cells(released_notebook(topic)):
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                # What is imported for the type checker alone is not run.
                node.body = [ast.Pass()]
            if isinstance(node, ast.Try) and [ast.unparse(it.type) for it in node.handlers if it.type] == [
                "ImportError"
            ]:
                # The notebook does without.
                node.body = [ast.Pass()]
        imported = {
            name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in ([str(node.module)] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
        }
        assert imported <= ALLOWED


def test_released_notebook_runs_to_its_end_in_jupyter(topic: str) -> None:
    notebook = released_notebook(topic)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    errors = {
        (cell.id.partition("-")[0], output.ename)
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "error"
    }
    assert errors <= {("visible", "NotImplementedError")}


def test_released_notebook_scores_zero(topic: str) -> None:
    notebook = released_notebook(topic)
    mark_notebook(notebook, lambda exercise: 1, limits=Limits(), devices=("cpu",))
    verdicts = verdicts_of(notebook)
    assert tuple(verdicts) == exercises_of(notebook)
    assert all(verdict.points == 0 and not verdict.passed for verdict in verdicts.values())


def test_solution_gets_full_marks(topic: str) -> None:
    notebook = source_notebook(topic)
    mark_notebook(notebook, lambda exercise: 1, limits=Limits(), devices=("cpu",))
    assert not [output for cell in code_cells(notebook) for output in cell.outputs if output.output_type == "error"]
    for verdict in verdicts_of(notebook).values():
        assert verdict.points == verdict.max_points, str(verdict)


GOOD = '# %% exercise="f"\ndef f(): ...\n\n# %% exam="f" points=1\n'


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        (GOOD + '\n# %% exercise="f"\nf = 1\n', "two cells exercise-f"),
        (GOOD + '\n# %% exercise="g"\ndef g(): ...\n', 'g has no cell exam="g"'),
        (GOOD + '\n# %% exam="g" points=1\n', 'g has no cell exercise="g"'),
        (GOOD.replace(" points=1", ""), "say its points"),
        (GOOD + "assert f()\n", "has to be empty"),
        (GOOD.replace('exercise="f"', 'exercise="f" visible="f"'), "can't be both exercise and visible"),
    ],
)
def test_wrong_keys_are_named(solution: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "topic.py").write_text(solution)
    (tmp_path / "_toc.yml").write_text("root: chapters/index\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CourseError, match=message):
        source_notebook("topic")


def test_source_notebook_is_valid(topic: str) -> None:
    nbformat.validate(source_notebook(topic))
