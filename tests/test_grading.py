"""A class whose answers are known is marked as they deserve, whatever else is handed in with them."""

from __future__ import annotations

import builtins
import json
import re
import shutil
import stat
import symtable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader.api import Gradebook

from autograder.classroom import gradebook
from autograder.classroom.gradebook import Course
from autograder.classroom.grading import Marking, grade_class
from autograder.classroom.intake import released_notebook
from autograder.classroom.result import Result
from autograder.classroom.roster import read_roster
from autograder.classroom.sample_class import write_class
from autograder.classroom.seeds import derived_seed, exam_fingerprint
from autograder.course import CourseError
from autograder.exams import exams_of
from autograder.notebooks.translate import exercise_path, exercises_of, source_notebook
from autograder.notebooks.transplant import names_imported, transplant
from autograder.sandbox.steps import Limits
from autograder.verdict import Verdict
from tests.inline import Inline

LIMITS = Limits(step_seconds=30.0, memory_bytes=3 * 10**9)


def grade(folder: Path, course: Path, limits: Limits = LIMITS) -> dict[str, Result]:
    """The results by student, of a class with one topic."""
    marking = Marking(Inline, limits=limits, devices=("cpu",))
    return {
        result.submission.student: result for result, _ in grade_class(Course(course), read_roster(folder), marking)
    }


def marks_in_gradebook(course: Path, topic: str) -> dict[str, float]:
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        return {each.student.id: each.score for each in book.assignment_submissions(topic)}


def test_sample_class_is_marked_as_it_was_dealt(topic: str, tmp_path: Path) -> None:
    folder = tmp_path / "class"
    list(write_class(folder, 3, 0, [topic]))
    mix = json.loads((folder / "mix.json").read_text())["students"]
    results = grade(folder, tmp_path / "course")
    assert set(results) == set(mix)
    dealt = [(student, name, answer) for student in mix for name, answer in mix[student][topic].items()]
    assert {"variant", "misconception"} <= {answer["kind"] for *_, answer in dealt}
    for student, name, answer in dealt:
        result = results[student]
        verdict = result.verdicts[name]
        if answer["kind"] == "variant":
            assert verdict.points == verdict.max_points, str(verdict)
        if answer["kind"] == "misconception":
            assert verdict.points < verdict.max_points, str(verdict)
            assert result.misconceptions.get(name) == answer["name"], str(verdict)
    assert marks_in_gradebook(tmp_path / "course", topic) == pytest.approx(
        {student: result.points for student, result in results.items()}
    )


def test_sample_class_depends_on_its_seed_only(topic: str, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        list(write_class(tmp_path / name, 3, seed, [topic]))
    a, b, c = ((tmp_path / name / "mix.json").read_text() for name in "abc")
    assert a == b != c


def test_large_class_holds_every_misconception(topic: str, tmp_path: Path) -> None:
    most = max(len(exam.misconceptions) for exam in exams_of(topic))
    list(write_class(tmp_path / "class", 3 * most, 0, [topic]))
    mix = json.loads((tmp_path / "class" / "mix.json").read_text())["students"]
    for exam in exams_of(topic):
        held = {students[topic][exam.name]["name"] for students in mix.values()}
        assert {misconception.name for misconception in exam.misconceptions} <= held


def test_every_entry_of_the_catalogue_fits_into_the_students_cell(topic: str) -> None:
    notebook = released_notebook(topic)
    cells = {cell.id: cell.source for cell in notebook.cells}
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    imported = names_imported(code)
    given = set(dir(builtins)).union(*(_names(source)[0] for source in code))
    for exam in exams_of(topic):
        entries = {entry.name: entry.implementation for entry in exam.misconceptions}
        entries |= {entry.name: entry.implementation for entry in exam.variants}
        for name, implementation in entries.items():
            source = transplant(implementation, exam.name, cells[f"exercise-{exam.name}"], imported)
            defined, used = _names(source)
            assert exam.name in defined
            assert used <= defined | given, name
            assert not re.search(r"^@\w+\.(variant|misconception)", source, re.MULTILINE)


def _names(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell defines, and all that it looks up, in its functions too."""
    cell = symtable.symtable(source, "a cell", "exec")
    used, scopes = {symbol.get_name() for symbol in cell.get_symbols() if symbol.is_referenced()}, cell.get_children()
    while scopes:
        scope = scopes.pop()
        used |= {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global() and symbol.is_referenced()}
        scopes += scope.get_children()
    return {symbol.get_name() for symbol in cell.get_symbols() if symbol.is_assigned() or symbol.is_imported()}, used


# The rest needs one exercise of one topic; what it is about does not depend on which.
TOPIC = "softmax"
EXERCISE = exercises_of(source_notebook(TOPIC))[0]


def answered(extra: str = "", *further: str) -> NotebookNode:
    """The students' notebook with the first exercise solved, ``extra`` below the answer, and ``further`` cells."""
    notebook, solved = released_notebook(TOPIC), source_notebook(TOPIC)
    name = f"exercise-{EXERCISE}"
    solution = next(cell.source for cell in solved.cells if cell.id == name)
    for cell in notebook.cells:
        if cell.id.startswith("exercise-"):
            cell.source = f"{solution}\n\n{extra}" if cell.id == name else "# Emptied: there is nothing to examine."
    notebook.cells += [new_code_cell(source) for source in further]
    return notebook


def write(folder: Path, student: str, content: NotebookNode | bytes) -> None:
    (folder / student).mkdir(parents=True)
    path = folder / student / f"{TOPIC}.ipynb"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        nbformat.write(content, path)


@dataclass
class Graded:
    """A class of mishaps, and what grading made of it."""

    folder: Path
    course: Path
    results: dict[str, Result]

    def verdict(self, student: str) -> Verdict:
        return self.results[student].verdicts[EXERCISE]

    def why(self, student: str) -> str:
        return self.verdict(student).findings[0].message


@pytest.fixture(scope="module")
def mishaps(tmp_path_factory: pytest.TempPathFactory) -> Graded:
    folder, course = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("course")
    define = f"def {EXERCISE}(*args, **kwargs):"
    write(folder, "ada", answered())
    write(folder, "bomb", answered(f"hoard = []\n{define}\n    while True: hoard.append(torch.ones(2**27))"))
    write(folder, "brackets [x]", answered())
    write(folder, "exit", answered(f"import os\n{define} os._exit(0)"))
    write(folder, "flood", answered("for _ in range(10**5): print('x' * 1000)"))
    write(folder, "fresh", released_notebook(TOPIC))
    write(folder, "hang", answered(f"{define}\n    while True: pass"))
    write(folder, "not-json", b"{")
    write(folder, "not-text", b"\xff\xfe\x00")
    write(folder, "nothing", b"")
    write(folder, "other-topic", exercise_path("self_attention").read_bytes())
    write(folder, "rebound", answered("", f"{EXERCISE} = {EXERCISE}(torch.zeros(3))"))
    write(folder, "syntax", answered("", "def f(:"))
    write(folder, "warning", answered("import warnings\nwarnings.warn('harmless')"))
    (folder / "no-file").mkdir()
    return Graded(folder, course, grade(folder, course, Limits(step_seconds=5.0, memory_bytes=2 * 10**9)))


def test_class_goes_on_whatever_is_handed_in(mishaps: Graded) -> None:
    marks = {student: mishaps.verdict(student).points for student, each in mishaps.results.items() if each.verdicts}
    full = mishaps.verdict("ada").max_points
    right = ("ada", "brackets [x]", "flood", "rebound", "syntax", "warning")
    assert marks == {student: full if student in right else 0 for student in marks}
    assert marks_in_gradebook(mishaps.course, TOPIC) == marks
    assert set(mishaps.results) - set(marks) == {"no-file"}


def test_a_zero_has_its_reason(mishaps: Graded) -> None:
    assert "GiB of memory" in mishaps.why("bomb")
    assert "exit code 0" in mishaps.why("exit")
    assert "longer than 5 s" in mishaps.why("hang")
    assert "not JSON" in mishaps.why("not-json")
    assert "UTF-8" in mishaps.why("not-text")
    assert "the file is empty" in mishaps.why("nothing")
    assert "holds the exercises of self_attention" in mishaps.why("other-topic")
    assert not mishaps.results["no-file"].handed_in
    for student in ("bomb", "exit", "hang"):
        assert all(verdict.findings[0].message != mishaps.why(student) for verdict in others(mishaps, student))


def others(mishaps: Graded, student: str) -> list[Verdict]:
    """The verdicts on the exercises that a lost process was not in."""
    return [verdict for name, verdict in mishaps.results[student].verdicts.items() if name != EXERCISE]


def test_instructor_hears_of_what_could_not_be_marked(mishaps: Graded) -> None:
    unmarked = {student for student, result in mishaps.results.items() if result.needs_attention}
    assert unmarked == {"not-json", "not-text", "nothing", "other-topic"}


def test_feedback_stands_in_the_autograded_notebook(mishaps: Graded) -> None:
    graded = nbformat.read(Course(mishaps.course).autograded("ada", TOPIC), as_version=4)
    cell = next(cell for cell in graded.cells if cell.id == f"exam-{EXERCISE}")
    assert cell.outputs[0].text == f"{mishaps.verdict('ada')}\n"
    assert float(cell.outputs[1].data["text/plain"]) == mishaps.verdict("ada").points


def test_exercise_as_handed_out_is_undone(mishaps: Graded) -> None:
    assert mishaps.results["fresh"].undone == set(mishaps.results["fresh"].verdicts)
    assert mishaps.results["fresh"].points == 0
    assert not mishaps.results["ada"].undone


def test_second_grading_gives_the_same_marks(mishaps: Graded, tmp_path: Path) -> None:
    shutil.copytree(mishaps.folder / "ada", tmp_path / "class" / "ada")
    again = grade(tmp_path / "class", mishaps.course)["ada"]
    other = grade(tmp_path / "class", tmp_path / "course")["ada"]
    assert again.verdicts == mishaps.results["ada"].verdicts
    assert again.verdicts[EXERCISE].seed != other.verdicts[EXERCISE].seed
    assert stat.S_IMODE((mishaps.course / "secret").stat().st_mode) == 0o600


def test_topic_that_changed_needs_another_course(mishaps: Graded, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = source_notebook(TOPIC)
    changed.cells = [cell for cell in changed.cells if EXERCISE not in exercises_of(new_notebook(cells=[cell]))]
    monkeypatch.setattr(gradebook, "source_notebook", lambda topic, points: changed)
    with pytest.raises(CourseError, match="another --course"):
        Course(mishaps.course).release(TOPIC)


def test_seeds_differ_by_all_that_they_are_derived_from() -> None:
    fingerprint = exam_fingerprint(TOPIC)
    seeds = {
        derived_seed(key, exam, exercise)
        for key in ("secret", "another")
        for exam in (fingerprint, "changed")
        for exercise in ("softmax", "log_softmax")
    }
    assert len(seeds) == 8
