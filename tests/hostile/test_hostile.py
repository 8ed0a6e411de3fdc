"""No submission fakes a mark, reads what is not its own, harms the machine or stops the class."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbgrader.api import Gradebook
from nbgrader.converters import GenerateFeedback

from autograder.verdict import Verdict
from tests.hostile.classroom import AGAIN, FIRST, LAST, LINK, Graded, grade, submissions
from tests.hostile.notebooks import TOPIC, Attack, attacks

ATTACKS = attacks()
# Two classes, which two workers can grade side by side.
CLASSES = {"odd": ATTACKS[0::2], "even": ATTACKS[1::2]}


def _group(name: str) -> pytest.MarkDecorator:
    return pytest.mark.xdist_group(f"hostile-{name}")


of_each_class = pytest.mark.parametrize(
    "graded", [pytest.param(name, marks=_group(name)) for name in CLASSES], indirect=True, scope="session"
)
of_each_attack = pytest.mark.parametrize(
    ("graded", "attack"),
    [
        pytest.param(name, attack, marks=_group(name), id=attack.name)
        for name, chosen in CLASSES.items()
        for attack in chosen
    ],
    indirect=["graded"],
    # Else the attack, which is no fixture, makes it the function's: a class graded for every test.
    scope="session",
)


@pytest.fixture(scope="session")
def graded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Graded:
    """One of the classes, graded once for all tests."""
    return grade(tmp_path_factory.mktemp("hostile"), CLASSES[request.param])


def points(graded: Graded, student: str) -> dict[str, float]:
    return {name: verdict.points for name, verdict in graded.results[student].verdicts.items()}


@of_each_attack
def test_the_marks_are_those_of_the_honest_code(graded: Graded, attack: Attack) -> None:
    for student in [attack.student] + [attack.student + AGAIN] * attack.twice:
        assert graded.results[student].verdicts, graded.results[student].problem
        for name, honest in graded.results[FIRST].verdicts.items():
            verdict = graded.results[student].verdicts[name]
            deserved = 0.0 if attack.refused else attack.marks.get(name, honest.points)
            assert _deserved(verdict, deserved), f"{deserved} deserved\n{verdict}"


def _deserved(verdict: Verdict, deserved: Any) -> bool:
    match deserved:
        case "any":
            return 0 <= verdict.points <= verdict.max_points
        case "less":
            return verdict.points < verdict.max_points
    return bool(verdict.points == pytest.approx(float(deserved)))


@of_each_attack
def test_nothing_leaks(graded: Graded, attack: Attack) -> None:
    for student in [attack.student] + [attack.student + AGAIN] * attack.twice:
        notebook = nbformat.read(graded.course.autograded(student, TOPIC), as_version=4)
        shown = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
        assert "LEAKED" not in re.sub(r"LEAKED[^\n]{0,40}(print|\")", "", _without_sources(shown))


def _without_sources(shown: str) -> str:
    """Outputs without tracebacks, which quote the attack's own source."""
    outputs = json.loads(shown)
    return json.dumps([{**each, "traceback": []} for cell in outputs for each in cell])


@of_each_class
def test_the_class_is_finished(graded: Graded) -> None:
    assert set(graded.results) == {*submissions(graded.attacks), LINK}
    with Gradebook(f"sqlite:///{graded.course.database}") as book:
        marks = {each.student.id: each.score for each in book.assignment_submissions(TOPIC)}
    assert marks == {student: pytest.approx(result.points) for student, result in graded.results.items()}


@of_each_class
def test_honest_students_are_marked_as_always(graded: Graded) -> None:
    assert points(graded, FIRST) == points(graded, LAST)
    assert points(graded, FIRST)["softmax"] == 3
    assert points(graded, FIRST)["log_softmax"] == 4
    assert 0 < points(graded, FIRST)["check_softmax"] < 3


@of_each_class
def test_a_link_to_another_students_work_is_not_followed(graded: Graded) -> None:
    assert "is a link" in str(graded.results[LINK].problem)
    assert graded.results[LINK].points == 0
    notebook = nbformat.read(graded.course.autograded(LINK, TOPIC), as_version=4)
    assert not any("torch.exp" in cell.source for cell in notebook.cells)


@of_each_class
def test_no_exam_is_taken_for_broken(graded: Graded) -> None:
    """A person would have to look at it: only a file that can't be read is worth that."""
    refused = {attack.student for attack in graded.attacks if attack.refused} | {LINK}
    assert {student for student, result in graded.results.items() if result.needs_attention} == refused


@of_each_class
def test_nothing_outside_has_changed(graded: Graded) -> None:
    assert graded.after == graded.before


@of_each_class
def test_no_process_is_left(graded: Graded) -> None:
    assert graded.left == []


@of_each_class
def test_notebooks_stay_small(graded: Graded) -> None:
    for student in graded.results:
        assert graded.course.autograded(student, TOPIC).stat().st_size < 50 * 10**6, student


@of_each_class
def test_feedback_runs_no_script(graded: Graded) -> None:
    chosen = ("html_in_the_feedback", "script_in_markdown", "formula_in_the_name")
    for student in (attack.student for attack in graded.attacks if attack.name in chosen):
        page = _feedback(graded, student)
        assert not re.search(r"<[^>]*hostile_mark", page), student
        assert not re.search(r"<script[^>]*>[^<]*hostile_mark", page), student


def _feedback(graded: Graded, student: str) -> str:
    with graded.course._nbgrader(TOPIC, student) as (folder, _):
        GenerateFeedback(coursedir=folder, config=graded.course.config, force=True).start()
    (page,) = Path(graded.course.root, "feedback", student).rglob("*.html")
    return page.read_text(encoding="utf-8")


@of_each_class
def test_nothing_steers_a_terminal(graded: Graded) -> None:
    text = "\n".join(str(verdict) for result in graded.results.values() for verdict in result.verdicts.values())
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
