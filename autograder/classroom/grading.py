"""Grades a class: each submission through nbgrader, one row for each student, whatever a submission holds."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_notebook

from autograder.classroom.gradebook import Course
from autograder.classroom.intake import read_notebook, topic_of
from autograder.classroom.marking import is_broken, verdicts_of
from autograder.classroom.preprocessors import NOTES, PROBLEM
from autograder.classroom.roster import Roster, Submission
from autograder.course import CourseError
from autograder.notebooks.translate import EXERCISE
from autograder.verdict import Verdict


@dataclass
class Result:
    """What became of one submission.

    ``problem`` is why it could not be marked, ``repairs`` what was put right, ``undone`` the exercises whose cells are
    as they were handed out.
    """

    submission: Submission
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    problem: str | None = None
    repairs: tuple[str, ...] = ()
    undone: frozenset[str] = frozenset()
    handed_in: bool = True

    @property
    def points(self) -> float:
        """The sum over the exercises."""
        return sum(verdict.points for verdict in self.verdicts.values())

    @property
    def max_points(self) -> float:
        """The most that could be had."""
        return sum(verdict.max_points for verdict in self.verdicts.values())

    @property
    def needs_attention(self) -> bool:
        """Whether it could not be marked, or not in full, by no fault of its answers."""
        return self.problem is not None or any(is_broken(verdict) for verdict in self.verdicts.values())

    @property
    def misconceptions(self) -> dict[str, str]:
        """The misconceptions that were recognised, by exercise."""
        return {name: found.diagnosis.name for name, found in self.verdicts.items() if found.diagnosis is not None}


def grade_class(course: Course, roster: Roster) -> Iterator[Result]:
    """Grades every submission, and yields its result as soon as it stands in the gradebook.

    Raises:
        CourseError: the topics can't be released to ``course``.
    """
    for topic in roster.topics:
        course.release(topic)
    for submission in roster.submissions:
        yield _grade(course, submission)


def _grade(course: Course, submission: Submission) -> Result:
    if not submission.path.exists():
        course.enrol(submission.student)
        return Result(submission, handed_in=False)
    if glob.has_magic(submission.student):
        return Result(submission, problem="nbgrader can't take a name with *, ? or [ in it: rename the folder.")
    try:
        _refuse_link(submission)
        notebook = read_notebook(submission.path)
        topic_of(notebook, submission.path)
    except (CourseError, OSError) as error:
        notebook = _unreadable(str(error))
    except Exception as error:
        # Nobody can think of all that a file may hold, and none may stop the class.
        notebook = _unreadable(f"{submission.path.name} can't be read: {type(error).__name__}.")
    _submit(course, submission, notebook)
    try:
        course.autograde(submission.student, submission.topic)
    except CourseError as error:
        return Result(submission, problem=str(error))
    graded = nbformat.read(course.autograded(submission.student, submission.topic), as_version=4)
    released = nbformat.read(course.released(submission.topic), as_version=4)
    about = graded.metadata["autograder"]
    return Result(
        submission,
        verdicts_of(graded),
        about.get(PROBLEM),
        tuple(about.get(NOTES, ())),
        _untouched(graded, released),
    )


def _unreadable(problem: str) -> NotebookNode:
    """What nbgrader gets for what can't be read: an empty notebook has zero points there, too, with the reason."""
    notebook: NotebookNode = new_notebook(metadata={"autograder": {PROBLEM: problem}})
    return notebook


def _refuse_link(submission: Submission) -> None:
    """A link could lead to the solutions, or to another student's work, and the feedback would show it.

    Raises:
        CourseError: the file, or the student's folder, is one.
    """
    folder = submission.path.parent.parent.resolve()
    if submission.path.resolve() != folder / submission.student / submission.path.name:
        raise CourseError(f"{submission.path.name} is a link: what it leads to is not read.")


def _untouched(graded: NotebookNode, released: NotebookNode) -> frozenset[str]:
    """The exercises whose cell still holds what was handed out."""
    handed_out = {cell.id: cell.source for cell in released.cells}
    return frozenset(
        name
        for cell in graded.cells
        for key, _, name in [cell.id.partition("-")]
        if key == EXERCISE and cell.source == handed_out.get(cell.id)
    )


def _submit(course: Course, submission: Submission, notebook: NotebookNode) -> None:
    """Puts a submission where nbgrader takes it from."""
    folder = course.submitted(submission.student, submission.topic).parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / f"{submission.topic}.ipynb")
