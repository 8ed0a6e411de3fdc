"""Whatever a file holds, the class goes on and no work is lost: real notebooks, mutated in every way that comes up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autograder.classroom.intake import REPAIRS, put_right, read_notebook, refuse_link, topic_of
from autograder.classroom.roster import read_roster
from autograder.course import CourseError
from autograder.notebooks.repair import handed_out
from autograder.notebooks.translate import exercise_path

Json = dict[str, Any]

TOPICS = ("softmax", "self_attention")
RELEASED = {topic: nbformat.read(exercise_path(topic), as_version=4) for topic in TOPICS}
WORK = "# what the student wrote: "


def worked_on(topic: str) -> Json:
    """The students' notebook with something of their own in every exercise's cell, and one more cell."""
    notebook: Json = json.loads(exercise_path(topic).read_text(encoding="utf-8"))
    for place, cell in enumerate(notebook["cells"]):
        if cell.get("id", "").startswith("exercise-"):
            cell["source"] = [f"{WORK}{place}\n", "def answer():\n", "    return 1\n"]
    own = {"cell_type": "code", "id": "mine", "metadata": {}, "outputs": [], "source": f"{WORK}own"}
    notebook["cells"].insert(len(notebook["cells"]) // 2, own | {"execution_count": None})
    return notebook


def work_in(notebook: Json) -> set[str]:
    """The lines that a student wrote, wherever they stand in a cell that Jupyter would show."""
    found = set()
    for cell in notebook["cells"]:
        if isinstance(cell, dict) and cell.get("cell_type") in ("code", "markdown", "raw"):
            source = cell.get("source")
            text = "".join(line for line in source if isinstance(line, str)) if isinstance(source, list) else source
            found |= {line for line in str(text).splitlines() if line.startswith(WORK)}
    return found


def took_in(path: Path, topic: str) -> nbformat.NotebookNode:
    """What a worker makes of a file before anything is run."""
    refuse_link(path, path.parent)
    notebook, notes = read_notebook(path)
    topic_of(notebook, path, topic)
    put_right(notebook, RELEASED[topic], topic, notes, None)
    return notebook


def check(notebook: nbformat.NotebookNode, topic: str) -> None:
    """It is one that nbgrader can grade: valid, and every graded cell stands in it once."""
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))
    for name, cell in handed_out(RELEASED[topic]).items():
        if not cell.metadata.nbgrader.solution:
            assert notebook.cells[ids.index(name)] == cell


# Each does something to the notebook at a place; ``other`` is another cell's place.
Harm = Callable[[Json, int, int], None]
STRANGE: tuple[Any, ...] = (
    None,
    0,
    -1.5,
    True,
    "",
    "x",
    [],
    {},
    ["a", None, 3],
    {"grade_id": []},
    "\ud800",
    "a\r\nb\r",
)


def deletes(notebook: Json, place: int, other: int) -> None:
    del notebook["cells"][place]


def copies(notebook: Json, place: int, other: int) -> None:
    notebook["cells"].insert(other, deepcopy(notebook["cells"][place]))


def moves(notebook: Json, place: int, other: int) -> None:
    notebook["cells"].insert(other, notebook["cells"].pop(place))


def empties(notebook: Json, place: int, other: int) -> None:
    notebook["cells"][place] = {}


def replaces(notebook: Json, place: int, other: int) -> None:
    notebook["cells"][place] = deepcopy(STRANGE[other % len(STRANGE)])


def takes_the_id_of_another(notebook: Json, place: int, other: int) -> None:
    cells = notebook["cells"]
    if isinstance(cells[place], dict) and isinstance(cells[other], dict):
        cells[place]["id"] = cells[other].get("id")


def strips_ids_and_metadata(notebook: Json, place: int, other: int) -> None:
    for cell in notebook["cells"]:
        if isinstance(cell, dict):
            cell.pop("id", None)
            cell["metadata"] = {}


def saves_as_colab(notebook: Json, place: int, other: int) -> None:
    """Ids move into the metadata, which nbgrader's are kept in, and the format is an older one."""
    notebook["nbformat_minor"] = 0
    for cell in notebook["cells"]:
        if isinstance(cell, dict) and isinstance(cell.get("metadata"), dict):
            cell["metadata"]["id"] = cell.pop("id", None)


def spoils(key: str) -> Harm:
    def harm(notebook: Json, place: int, other: int) -> None:
        if isinstance(notebook["cells"][place], dict):
            notebook["cells"][place][key] = deepcopy(STRANGE[other % len(STRANGE)])

    return harm


def spoils_all(key: str) -> Harm:
    def harm(notebook: Json, place: int, other: int) -> None:
        notebook[key] = deepcopy(STRANGE[other % len(STRANGE)])

    return harm


HARMS: tuple[Harm, ...] = (
    *(deletes, copies, moves, empties, replaces, takes_the_id_of_another, strips_ids_and_metadata, saves_as_colab),
    *(spoils(key) for key in ("source", "metadata", "cell_type", "id", "outputs", "attachments")),
    *(spoils_all(key) for key in ("metadata", "nbformat", "nbformat_minor")),
)
SPOILT = st.lists(st.tuples(st.sampled_from(HARMS), st.integers(0, 99), st.integers(0, 99)), max_size=8)


def written(notebook: Json, path: Path) -> None:
    path.write_text(json.dumps(notebook), encoding="utf-8")


def _often(request: pytest.FixtureRequest) -> settings:
    most = request.config.getoption("--mutations")
    every = list(HealthCheck)
    return settings(max_examples=most, deadline=None, suppress_health_check=every, derandomize=True, database=None)


def test_mutated_notebooks_lose_no_work(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    @_often(request)
    @given(topic=st.sampled_from(TOPICS), harms=SPOILT)
    def mutated(topic: str, harms: list[tuple[Harm, int, int]]) -> None:
        notebook = worked_on(topic)
        for harm, place, other in harms:
            if notebook["cells"]:
                harm(notebook, place % len(notebook["cells"]), other % len(notebook["cells"]))
        path = tmp_path / f"{topic}.ipynb"
        written(notebook, path)
        taken = took_in(path, topic)
        check(taken, topic)
        assert work_in(notebook) <= work_in(taken)

    mutated()


def test_mutated_bytes_are_read_or_refused_in_a_sentence(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    whole = {topic: json.dumps(worked_on(topic), indent=1).encode() for topic in TOPICS}
    cuts = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 40), st.binary(max_size=6)), min_size=1, max_size=4)

    @_often(request)
    @given(topic=st.sampled_from(TOPICS), cuts=cuts, cut_off=st.booleans())
    def mutated(topic: str, cuts: list[tuple[int, int, bytes]], cut_off: bool) -> None:
        data = bytearray(whole[topic])
        for start, length, inserted in cuts:
            place = start % len(data)
            data[place : place + length] = inserted
        path = tmp_path / f"{topic}.ipynb"
        path.write_bytes(data[: len(data) * 2 // 3] if cut_off else data)
        why = ""
        try:
            check(took_in(path, topic), topic)
        except CourseError as told:
            why = str(told)
        assert "\n" not in why
        assert topic in why or not why

    mutated()


def notes(path: Path, topic: str = "softmax") -> str:
    return "; ".join(took_in(path, topic).metadata.autograder[REPAIRS])


def test_what_editors_write_is_read_without_a_word(tmp_path: Path) -> None:
    """JupyterLab's, VS Code's and Colab's ways to save the same notebook; line ends of Windows; a byte-order mark."""
    path = tmp_path / "softmax.ipynb"
    notebook = worked_on("softmax")
    wanted = work_in(notebook)
    ways: dict[str, Callable[[Json], bytes]] = {
        "as it is": lambda one: json.dumps(one).encode(),
        "older": lambda one: json.dumps(_older(one)).encode(),
        "colab": lambda one: json.dumps(_colab(one)).encode(),
        "vs code": lambda one: json.dumps(_vscode(one)).encode(),
        "windows": lambda one: json.dumps(_windows(one), indent=1).replace("\n", "\r\n").encode(),
    }
    for way, save in ways.items():
        path.write_bytes(save(deepcopy(notebook)))
        taken = took_in(path, "softmax")
        assert work_in(taken) == wanted, way
        assert not taken.metadata.autograder[REPAIRS], way
        assert "\r" not in "".join(cell.source for cell in taken.cells), way
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(notebook).encode())
    assert "byte-order mark" in notes(path)


def _older(notebook: Json) -> Json:
    """Before 4.5 cells had no ids."""
    notebook["nbformat_minor"] = 2
    for cell in notebook["cells"]:
        cell.pop("id")
    return notebook


def _colab(notebook: Json) -> Json:
    saves_as_colab(notebook, 0, 0)
    return notebook


def _vscode(notebook: Json) -> Json:
    for cell in notebook["cells"]:
        cell["metadata"]["vscode"] = {"languageId": "python"}
    return notebook


def _windows(notebook: Json) -> Json:
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"]).replace("\n", "\r\n")
    return notebook


def test_files_that_are_none_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "softmax.ipynb"

    def why() -> str:
        with pytest.raises(CourseError) as told:
            took_in(path, "softmax")
        return str(told.value)

    assert "no file" in why()
    path.mkdir()
    assert "is not a file" in why()
    path.rmdir()
    os.mkfifo(path)
    assert "is not a file" in why()
    path.unlink()
    (tmp_path / "elsewhere.ipynb").write_text("{}")
    path.symlink_to(tmp_path / "elsewhere.ipynb")
    assert "is a link" in why()
    path.unlink()
    with path.open("wb") as file:
        file.truncate(200_000_000)
    assert "larger than 50 MB" in why()
    path.write_text(json.dumps({"worksheets": [], "nbformat": 3}))
    assert "format 3" in why()
    path.write_text(json.dumps({"cells": [{}] * 1001}))
    assert "more than 1000 cells" in why()


def put(folder: Path, *names: str) -> None:
    for age, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
        os.utime(path, (10**9 + age, 10**9 + age))


def test_of_several_notebooks_one_counts_and_it_is_said_which(tmp_path: Path) -> None:
    put(tmp_path / "ada", "softmax (1).ipynb", "softmax.ipynb")
    put(tmp_path / "bob", "bob_Softmax-Copy1.ipynb", "softmax final.ipynb")
    put(tmp_path / "cyd", "softmax/softmax.ipynb", "softmax/.ipynb_checkpoints/softmax-checkpoint.ipynb", "notes.ipynb")
    put(tmp_path / "dan", "Self-Attention.ipynb")
    roster = read_roster(tmp_path)
    chosen = {(one.student, one.topic): one for one in roster.submissions if one.handed_in}
    assert {key: one.path.relative_to(tmp_path).as_posix() for key, one in chosen.items()} == {
        ("ada", "softmax"): "ada/softmax.ipynb",
        ("bob", "softmax"): "bob/softmax final.ipynb",
        ("cyd", "softmax"): "cyd/softmax/softmax.ipynb",
        ("dan", "self_attention"): "dan/Self-Attention.ipynb",
    }
    assert chosen["ada", "softmax"].notes == ("softmax (1).ipynb was handed in as well; softmax.ipynb counts",)
    assert chosen["bob", "softmax"].notes[0] == "the file softmax final.ipynb was taken for softmax.ipynb"
    assert not chosen["cyd", "softmax"].notes
    assert roster.ignored == (str(tmp_path / "cyd" / "notes.ipynb"),)


@pytest.mark.parametrize("student", ["with spaces", "emoji 🦉", "two\nlines", "brackets [x]", "-dash", "=1+1"])
def test_any_name_of_a_folder_is_a_student(student: str, tmp_path: Path) -> None:
    put(tmp_path / student, "softmax.ipynb")
    assert [one.student for one in read_roster(tmp_path, student=student).submissions] == [student]


def test_an_unknown_student_is_told_in_a_sentence(tmp_path: Path) -> None:
    put(tmp_path / "ada-lovelace", "softmax.ipynb")
    with pytest.raises(CourseError, match="Did you mean 'ada-lovelace'"):
        read_roster(tmp_path, student="ada-lovelase")
