"""What the command line says to somebody who mistypes, and to somebody who does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from typer.testing import CliRunner

from autograder.cli import BAD_INPUT, NOT_ALL_WELL, app
from autograder.notebooks.translate import exercise_path, source_notebook

runner = CliRunner(env={"COLUMNS": "200"})
SOFTMAX = str(exercise_path("softmax"))


def fails(*arguments: str | Path) -> str:
    """The one sentence that bad input is answered with."""
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == BAD_INPUT
    assert "Traceback" not in result.output
    assert result.stdout == ""
    (sentence,) = result.stderr.splitlines()
    return sentence


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "There is no folder" in fails("grade", tmp_path / "nowhere")


def test_empty_class(tmp_path: Path) -> None:
    assert "holds no students" in fails("grade", tmp_path)
    (tmp_path / "ada").mkdir()
    assert "No student in" in fails("grade", tmp_path)


def test_unknown_topic(tmp_path: Path) -> None:
    assert "Did you mean 'softmax'?" in fails("grade", tmp_path, "--topic", "sotfmax")


@pytest.mark.parametrize("content", [b"", b"{", b"hello", b"[]", b"\xff\xfe", b'{"cells": 1}', b"[" * 10**5])
def test_file_that_is_no_notebook(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.ipynb"
    path.write_bytes(content)
    assert "notes.ipynb is not a notebook" in fails("check", path)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    assert "There is no file" in fails("check", tmp_path / "softmax.ipynb")


def test_notebook_of_another_topic(tmp_path: Path) -> None:
    path = tmp_path / "softmax.ipynb"
    path.write_bytes(exercise_path("self_attention").read_bytes())
    assert "holds the exercises of self_attention, not those of softmax" in fails("check", path)


def test_notebook_of_another_course(tmp_path: Path) -> None:
    path = tmp_path / "other.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), path)
    assert "holds no exercise of this course" in fails("check", path)


def test_unknown_exercise() -> None:
    assert "Did you mean 'softmax'?" in fails("check", SOFTMAX, "--exercise", "sofmax")
    assert "attention is not among them" in fails("check", SOFTMAX, "--exercise", "attention")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device_that_is_not_there() -> None:
    assert "no cuda device" in fails("check", SOFTMAX, "--device", "cuda")
    assert "no device called 'gpu'" in fails("check", SOFTMAX, "--device", "gpu")


def test_class_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    assert "not empty" in fails("sample-class", tmp_path)


def test_check_prints_feedback_and_its_seed() -> None:
    result = runner.invoke(app, ["check", SOFTMAX, "--exercise", "softmax", "--seed", "7", "--device", "cpu"])
    assert result.exit_code == NOT_ALL_WELL
    assert "softmax: 0 of" in result.stdout
    assert "seed 7" in result.stdout


def test_check_of_a_right_answer_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "mine.ipynb"
    nbformat.write(source_notebook("softmax"), path)
    result = runner.invoke(app, ["check", str(path), "--exercise", "softmax"])
    assert result.exit_code == 0, result.output


def test_grade_prints_a_table(tmp_path: Path) -> None:
    folder, course = tmp_path / "class", tmp_path / "course"
    assert runner.invoke(app, ["sample-class", str(folder), "--students", "1", "--topic", "softmax"]).exit_code == 0
    (student,) = (path.name for path in folder.iterdir() if path.is_dir())
    (folder / student / "softmax (1).ipynb").touch()
    (folder / "absent").mkdir()
    result = runner.invoke(app, ["grade", str(folder), "--course", str(course)])
    assert result.exit_code == 0, result.output
    for text in (student, "nothing handed in", "softmax (1).ipynb", "cpu: float64", str(course / "gradebook.db")):
        assert text in result.stdout
    (folder / student / "softmax.ipynb").write_text("{")
    result = runner.invoke(app, ["grade", str(folder), "--course", str(course)])
    assert result.exit_code == NOT_ALL_WELL
    assert "not JSON" in result.stdout


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys, autograder.cli, typer.testing\n"
        "assert typer.testing.CliRunner().invoke(autograder.cli.app, ['--help']).exit_code == 0\n"
        "assert not {'torch', 'nbgrader', 'nbformat', 'IPython'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
