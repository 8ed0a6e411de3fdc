"""A class goes on after any interruption: nothing is lost, nothing is marked twice, nothing is marked in vain."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell
from nbgrader.api import Gradebook

from autograder.classroom import grading, late
from autograder.classroom.gradebook import Course
from autograder.classroom.grading import KILLED, Marking, grade_class
from autograder.classroom.journal import Journal
from autograder.classroom.marks import marks as marks_of
from autograder.classroom.marks import write_csv, write_json
from autograder.classroom.pool import each
from autograder.classroom.result import Result
from autograder.classroom.roster import read_roster
from autograder.course import CourseError
from tests import quick
from tests.inline import Inline
from tests.quick import TOPIC

CONTEXT = multiprocessing.get_context("forkserver")
# Said before the first process is made, so that none has to import it all.
CONTEXT.set_forkserver_preload(["tests.test_class"])

Graded = dict[str, tuple[Result, bool]]


def process(number: int = 0) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=CONTEXT)


def grade(
    folder: Path, course: Path, again: bool = False, student: str | None = None
) -> dict[str, tuple[Result, bool]]:
    """Results by student, and whether they are new."""
    graded = grade_class(Course(course), read_roster(folder, student=student), Marking(Inline, mark=quick.mark), again)
    return {result.submission.student: (result, new) for result, new in graded}


def news(graded: Graded) -> set[str]:
    return {student for student, (_, new) in graded.items() if new}


def in_gradebook(course: Path) -> dict[str, float]:
    """The marks by student; nobody is there twice."""
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        found = [(submission.student_id, submission.score) for submission in book.assignment_submissions(TOPIC)]
    assert len(found) == len(dict(found))
    return dict(found)


def marks(graded: Graded) -> dict[str, Any]:
    return {student: pytest.approx(result.points) for student, (result, _) in graded.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    quick.write_class(tmp_path / "class", 5)
    return tmp_path / "class"


def change(folder: Path, student: str) -> None:
    path = folder / student / f"{TOPIC}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(new_markdown_cell("One more thought."))
    nbformat.write(notebook, path)


def test_only_what_has_changed_is_graded_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    course = tmp_path / "course"
    first = grade(folder, course)
    assert len(news(first)) == 5
    assert in_gradebook(course) == marks(first)
    second = grade(folder, course)
    assert not news(second)
    assert {student: result for student, (result, _) in second.items()} == {
        student: result for student, (result, _) in first.items()
    }
    change(folder, "student-002")
    third = grade(folder, course)
    assert news(third) == {"student-002"}
    assert third["student-002"][0].points != first["student-002"][0].points
    assert in_gradebook(course) == marks(third)
    assert news(grade(folder, course, again=True, student="student-004")) == {"student-004"}
    monkeypatch.setattr(grading, "exam_fingerprint", lambda topic: "another exam")
    assert len(news(grade(folder, course))) == 5


def test_a_gradebook_that_was_removed_is_made_again(folder: Path, tmp_path: Path) -> None:
    first = grade(folder, tmp_path / "course")
    (tmp_path / "course" / "gradebook.db").unlink()
    assert len(news(grade(folder, tmp_path / "course"))) == 5
    assert in_gradebook(tmp_path / "course") == marks(first)


def test_a_torn_line_of_the_journal_costs_one_submission(folder: Path, tmp_path: Path) -> None:
    grade(folder, tmp_path / "course")
    journal = tmp_path / "course" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert news(grade(folder, tmp_path / "course")) == {"student-004"}
    assert not news(grade(folder, tmp_path / "course"))


def test_a_mark_given_by_hand_survives(folder: Path, tmp_path: Path) -> None:
    course = tmp_path / "course"
    grade(folder, course)
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        book.find_grade("exam-softmax", TOPIC, TOPIC, "student-001").manual_score = 0.125
        book.db.commit()
    change(folder, "student-001")
    assert news(grade(folder, course)) == {"student-001"}
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        by_hand = book.find_grade("exam-softmax", TOPIC, TOPIC, "student-001")
        assert by_hand.score == 0.125
        assert by_hand.needs_manual_grade


def test_two_do_not_grade_into_one_course(folder: Path, tmp_path: Path) -> None:
    course = tmp_path / "course"
    first = grade_class(Course(course), read_roster(folder), Marking(Inline, mark=quick.mark))
    assert isinstance(first, Generator)
    next(first)
    with pytest.raises(CourseError, match="is at work in"):
        grade(folder, course)
    first.close()
    assert len(news(grade(folder, course))) == 4


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    quick.write_class(tmp_path / "class", 12)
    marking = Marking(process, workers=3, mark=quick.mark_or_die)
    graded = {
        result.submission.student: result
        for result, _ in grade_class(Course(tmp_path / "course"), read_roster(tmp_path / "class"), marking)
    }
    assert len(graded) == 12
    assert {student for student, result in graded.items() if result.problem} == {"student-003"}
    assert graded["student-003"].problem == KILLED
    assert in_gradebook(tmp_path / "course") == {
        student: pytest.approx(result.points) for student, result in graded.items()
    }


def _slowly(number: int) -> int:
    time.sleep(0.02)
    return number * number


def test_workers_killed_at_any_moment_lose_nothing() -> None:
    dice = random.Random(4)
    started: list[ProcessPoolExecutor] = []

    def start(number: int) -> ProcessPoolExecutor:
        started.append(process(number))
        return started[-1]

    found = []
    for number, square in each(_slowly, range(150), start, 3):
        found.append((number, square))
        if len(found) % 10 == 0:
            victims = [victim for worker in started for victim in (worker._processes or {}).values()]
            time.sleep(dice.uniform(0, 0.02))
            dice.choice(victims).kill()
    assert sorted(found) == [(number, number * number) for number in range(150)]
    assert len(started) > 5


def _grade_all(folder: str, course: str) -> None:
    list(grade_class(Course(Path(course)), read_roster(Path(folder)), Marking(Inline, mark=quick.mark)))


def test_killed_at_any_moment_it_loses_nothing_and_marks_nothing_twice(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Whoever grades is killed (SIGKILL), at moments drawn over the whole course of the work."""
    dice, kills, courses = random.Random(7), 0, 0
    quick.write_class(tmp_path / "class", 6)
    wanted = grade(tmp_path / "class", tmp_path / "undisturbed")
    while kills < request.config.getoption("--kills"):
        course = tmp_path / f"course-{courses}"
        courses += 1
        course.mkdir()
        # The marks depend on it alone.
        (course / "secret").write_text((tmp_path / "undisturbed" / "secret").read_text())
        done, patience = False, 0.5
        while not done:
            grader = CONTEXT.Process(target=_grade_all, args=(str(tmp_path / "class"), str(course)))
            grader.start()
            grader.join(dice.uniform(0, patience))
            grader.kill()
            grader.join()
            kills += grader.exitcode == -signal.SIGKILL
            # On a busy machine it would never get to the end.
            patience *= 1.2
            done = grader.exitcode == 0
            assert grader.exitcode in (0, -signal.SIGKILL)
        assert in_gradebook(course) == marks(wanted)
        assert set(Journal(course / "journal.jsonl").entries) == {(student, TOPIC) for student in wanted}
        last = grade(tmp_path / "class", course)
        assert not news(last)
        assert [json.loads(line) for line in (course / "journal.jsonl").read_text().splitlines()]


def test_rules_reach_the_gradebook(folder: Path, tmp_path: Path) -> None:
    course = tmp_path / "course"
    course.mkdir()
    rules = (
        "[late]\nper_day = 0.1\nat_most = 0.25\ngrace_minutes = 10\n[topics.softmax]\ndue = 2027-03-05T18:00:00+01:00\n"
    )
    (course / "course.toml").write_text(rules + "points = { softmax = 7 }\n")
    moments = {
        "student-000": "2027-03-05 17:00:00 UTC",
        "student-001": "2027-03-05 17:09:59 UTC",
        "student-002": "2027-03-05 17:20:00 UTC",
        "student-003": "2027-03-25 12:00:00 +0100",
    }
    for student, when in moments.items():
        (folder / student / "timestamp.txt").write_text(when)
    graded = grade(folder, course)
    assert graded["student-000"][0].verdicts["softmax"].max_points == 7

    def lost() -> list[float]:
        with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
            found = {
                each.student_id: each.late_submission_penalty or 0.0 for each in book.assignment_submissions(TOPIC)
            }
        return [found[student] / graded[student][0].points for student in sorted(found)]

    assert lost() == pytest.approx([0, 0, 0.1, 0.25, 0])
    # Another policy changes what is lost, and marks nothing again.
    (course / "course.toml").write_text(rules.replace("0.25", "0.9") + "points = { softmax = 7 }\n")
    assert not news(grade(folder, course))
    assert lost() == pytest.approx([0, 0, 0.1, 0.9, 0])
    (folder / "student-002" / "timestamp.txt").unlink()
    assert not news(grade(folder, course))
    assert lost() == pytest.approx([0, 0, 0, 0.9, 0])


NO_TIMES = {"empty": b"", "words": b"tomorrow", "bytes": b"\xff\xfe", "huge": b"9" * 10**6, "no day": b"2027-13-45 UTC"}


@pytest.mark.parametrize("content", NO_TIMES.values(), ids=NO_TIMES)
def test_a_timestamp_that_says_no_time_stops_nothing(content: bytes, folder: Path, tmp_path: Path) -> None:
    (folder / "student-001" / "timestamp.txt").write_bytes(content)
    graded = grade(folder, tmp_path / "course")
    assert len(news(graded)) == 5
    assert "timestamp.txt says no time" in graded["student-001"][0].submission.notes[0]
    assert in_gradebook(tmp_path / "course") == marks(graded)


def test_names_that_are_no_text_stop_nothing(folder: Path, tmp_path: Path) -> None:
    odd = folder / os.fsdecode(b"stud\xff")
    (folder / "student-001").rename(odd)
    (odd / f"{TOPIC}.ipynb").rename(odd / os.fsdecode(TOPIC.encode() + b" \xfe.ipynb"))
    graded = grade(folder, tmp_path / "course")
    assert in_gradebook(tmp_path / "course") == marks(graded)
    result, _ = graded[r"stud\udcff"]
    assert result.verdicts
    assert result.submission.notes == (rf"the file {TOPIC} \udcfe.ipynb was taken for {TOPIC}.ipynb",)
    assert not news(grade(folder, tmp_path / "course"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("late = 3", "late is to be a table"),
        ("[late]\nper_day = 2", "per_day is to be a number from 0 to 1"),
        ("[late]\nper_week = 1", "[late] has no 'per_week'"),
        ("[topics.sofmax]", "[topics] has no 'sofmax'"),
        ("[topics.softmax]\ndue = 5", "softmax is to be due at a date or a time"),
        ("[topics.softmax]\npoints = { attention = 3 }", "softmax has no exercise called 'attention'"),
        ("timezone = 'Mars'", "there is no time zone 'Mars'"),
        ("[late", "is not TOML"),
    ],
)
def test_rules_that_mean_nothing_are_told_in_one_sentence(text: str, words: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "course.toml").write_text(text)
    with pytest.raises(CourseError) as told:
        grade(folder, tmp_path / "course")
    assert words in str(told.value)


@pytest.mark.parametrize(("seconds", "share"), [(0, None), (600, None), (601, 0.2), (86_400, 0.2), (200_000, 0.5)])
def test_late_policy(seconds: float, share: float | None) -> None:
    policy = late.LatePolicy(per_day=0.2, at_most=0.5, grace_minutes=10)
    assert policy.late_submission_penalty("ada", 8.0, seconds) == (None if share is None else pytest.approx(8 * share))


def test_marks_go_out_as_csv_and_json(tmp_path: Path) -> None:
    quick.write_class(tmp_path / "class", 2)
    (tmp_path / "class" / "student-001").rename(tmp_path / "class" / "=1+1")
    (tmp_path / "class" / "zoe").mkdir()
    graded = grade(tmp_path / "class", tmp_path / "course")
    found = marks_of(Course(tmp_path / "course"))
    write_csv(found, tmp_path / "marks.csv")
    with (tmp_path / "marks.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    # A spreadsheet would run what begins with an equals sign.
    assert set(rows) == {"'=1+1", "student-000", "zoe"}
    assert float(rows["student-000"]["total"]) == pytest.approx(graded["student-000"][0].points)
    assert (rows["zoe"]["softmax"], rows["zoe"]["total"]) == ("", "0")
    results = [entry.result for entry in Journal(tmp_path / "course" / "journal.jsonl").entries.values()]
    write_json(found, results, tmp_path / "marks.json")
    about = json.loads((tmp_path / "marks.json").read_text(encoding="utf-8"))["students"]["=1+1"]["softmax"]
    assert about["points"] == pytest.approx(graded["=1+1"][0].points)
    assert about["exercises"]["softmax"] == graded["=1+1"][0].verdicts["softmax"].points
    assert about["problem"] is None


def test_marks_of_nothing_are_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="Nothing has been graded"):
        marks_of(Course(tmp_path))
