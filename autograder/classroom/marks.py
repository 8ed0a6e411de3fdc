"""The marks as files for other programs: a table for a learning-management system, and all that is known as JSON."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgrader.api import Gradebook

from autograder.classroom.gradebook import Course
from autograder.classroom.result import Result
from autograder.course import CourseError, topics

# A spreadsheet takes what begins like this for a formula, and runs it.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Mark:
    """What the gradebook holds for one submission: marks given by hand and penalties are in ``points``."""

    points: float
    max_points: float
    penalty: float
    exercises: dict[str, float]


def marks(course: Course) -> dict[str, dict[str, Mark]]:
    """By student and topic, everyone who is in the gradebook.

    Raises:
        CourseError: nothing has been graded there.
    """
    if not course.database.is_file():
        raise CourseError(f"Nothing has been graded in {course.root}: there is no {course.database.name}.")
    with Gradebook(course.database_url) as book:
        found: dict[str, dict[str, Mark]] = {student.id: {} for student in book.students}
        for assignment in book.assignments:
            for submission in book.assignment_submissions(assignment.name):
                exercises = {
                    grade.cell.name.removeprefix("exam-"): float(grade.score)
                    for notebook in submission.notebooks
                    for grade in notebook.grades
                }
                penalty = float(submission.late_submission_penalty or 0)
                found[submission.student_id][assignment.name] = Mark(
                    float(submission.score) - penalty, float(submission.max_score), penalty, exercises
                )
    return found


def write_csv(found: dict[str, dict[str, Mark]], path: Path) -> None:
    """One row a student, one column a topic, and the sum."""
    held = {topic for row in found.values() for topic in row}
    columns = [topic for topic in topics() if topic in held]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["student", *columns, "total"])
        for student, row in sorted(found.items()):
            points = [round(row[topic].points, 4) if topic in row else "" for topic in columns]
            table.writerow([_harmless(student), *points, round(sum(mark.points for mark in row.values()), 4)])


def write_json(found: dict[str, dict[str, Mark]], results: list[Result], path: Path) -> None:
    """For every student and topic the marks, the exercises, what was recognised, repaired, and went wrong."""
    known = {(result.submission.student, result.submission.topic): result for result in results}
    students = {
        student: {topic: _about(mark, known.get((student, topic))) for topic, mark in row.items()}
        for student, row in sorted(found.items())
    }
    path.write_text(json.dumps({"students": students}, indent=1) + "\n", encoding="utf-8")


def _about(mark: Mark, result: Result | None) -> dict[str, Any]:
    about: dict[str, Any] = {
        "points": mark.points,
        "max_points": mark.max_points,
        "late_penalty": mark.penalty,
        "exercises": mark.exercises,
    }
    if result is not None:
        about |= {
            "misconceptions": result.misconceptions,
            "repairs": list(result.repairs),
            "stopped": list(result.stopped),
            "problem": result.problem,
        }
    return about


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text
