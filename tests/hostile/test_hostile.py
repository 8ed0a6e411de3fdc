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

pytestmark = pytest.mark.xdist_group("hostile")

ALL = {attack.name: attack for attack in attacks()}


@pytest.fixture(scope="session")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Graded:
    """The class, graded once for all tests."""
    return grade(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(params=list(ALL.values()), ids=list(ALL))
def attack(request: pytest.FixtureRequest) -> Attack:
    found: Attack = request.param
    return found


def points(graded: Graded, student: str) -> dict[str, float]:
    return {name: verdict.points for name, verdict in graded.results[student].verdicts.items()}


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


def test_nothing_leaks(graded: Graded, attack: Attack) -> None:
    for student in [attack.student] + [attack.student + AGAIN] * attack.twice:
        notebook = nbformat.read(graded.course.autograded(student, TOPIC), as_version=4)
        shown = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
        assert "LEAKED" not in re.sub(r"LEAKED[^\n]{0,40}(print|\")", "", _without_sources(shown))


def _without_sources(shown: str) -> str:
    """Outputs without tracebacks, which quote the attack's own source."""
    outputs = json.loads(shown)
    return json.dumps([{**each, "traceback": []} for cell in outputs for each in cell])


def test_the_class_is_finished(graded: Graded) -> None:
    assert set(graded.results) == {*submissions(ALL.values()), LINK}
    with Gradebook(f"sqlite:///{graded.course.database}") as book:
        marks = {each.student.id: each.score for each in book.assignment_submissions(TOPIC)}
    assert marks == {student: pytest.approx(result.points) for student, result in graded.results.items()}


def test_honest_students_are_marked_as_always(graded: Graded) -> None:
    assert points(graded, FIRST) == points(graded, LAST)
    assert points(graded, FIRST)["softmax"] == 3
    assert points(graded, FIRST)["log_softmax"] == 4
    assert 0 < points(graded, FIRST)["check_softmax"] < 3


def test_a_link_to_another_students_work_is_not_followed(graded: Graded) -> None:
    assert "is a link" in str(graded.results[LINK].problem)
    assert graded.results[LINK].points == 0
    notebook = nbformat.read(graded.course.autograded(LINK, TOPIC), as_version=4)
    assert not any("torch.exp" in cell.source for cell in notebook.cells)


def test_no_exam_is_taken_for_broken(graded: Graded) -> None:
    """A person would have to look at it: only a file that can't be read is worth that."""
    refused = {attack.student for attack in ALL.values() if attack.refused} | {LINK}
    assert {student for student, result in graded.results.items() if result.needs_attention} == refused


def test_nothing_outside_has_changed(graded: Graded) -> None:
    assert graded.after == graded.before


def test_no_process_is_left(graded: Graded) -> None:
    assert graded.left == []


def test_notebooks_stay_small(graded: Graded) -> None:
    for student in graded.results:
        assert graded.course.autograded(student, TOPIC).stat().st_size < 50 * 10**6, student


def test_feedback_runs_no_script(graded: Graded) -> None:
    chosen = [ALL[name].student for name in ("html_in_the_feedback", "script_in_markdown", "formula_in_the_name")]
    for student in chosen:
        page = _feedback(graded, student)
        assert not re.search(r"<[^>]*hostile_mark", page), student
        assert not re.search(r"<script[^>]*>[^<]*hostile_mark", page), student


def _feedback(graded: Graded, student: str) -> str:
    with graded.course._nbgrader(TOPIC, student) as (folder, _):
        GenerateFeedback(coursedir=folder, config=graded.course.config, force=True).start()
    (page,) = Path(graded.course.root, "feedback", student).rglob("*.html")
    return page.read_text(encoding="utf-8")


def test_nothing_steers_a_terminal(graded: Graded) -> None:
    verdicts = graded.results["terminal_codes"].verdicts.values()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", "\n".join(map(str, verdicts)))
