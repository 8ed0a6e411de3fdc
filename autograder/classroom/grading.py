"""Grades a class: workers mark, this process alone writes the gradebook, and the journal knows how far it got."""

from __future__ import annotations

import fcntl
import hashlib
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from autograder.classroom.gradebook import Course
from autograder.classroom.intake import MOST_BYTES
from autograder.classroom.journal import Entry, Journal
from autograder.classroom.pool import CHANCES, each
from autograder.classroom.result import Result
from autograder.classroom.roster import Roster, Submission
from autograder.classroom.seeds import exam_fingerprint, secret
from autograder.classroom.work import Job, Marked, mark_submission, not_marked
from autograder.course import CourseError
from autograder.sandbox.steps import Limits

KILLED = f"The process that marked it was killed, {CHANCES} times."


@dataclass(frozen=True)
class Marking:
    """How a class is marked: within which ``limits``, on which ``devices`` (None: wherever answers can be examined).

    ``start`` makes the worker of a number for ``mark``; there are so many ``workers`` at the most.
    """

    start: Callable[[int], Executor]
    workers: int = 1
    limits: Limits = field(default_factory=Limits)
    devices: tuple[str, ...] | None = None
    mark: Callable[[Job], Marked] = mark_submission


def grade_class(course: Course, roster: Roster, marking: Marking, again: bool = False) -> Iterator[tuple[Result, bool]]:
    """Grades every submission, and yields its result as soon as it stands in the gradebook.

    What has not changed since it was graded is not graded again, unless ``again`` asks for it; beside each result
    stands whether it is a new one.

    Raises:
        CourseError: the topics can't be released to ``course``, its gradebook can't be written, or somebody else is
            grading into it.
    """
    with _alone(course):
        journal = Journal(course.journal)
        todo: dict[Job, Entry] = {}
        for topic in roster.topics:
            course.release(topic)
            recorded = course.recorded(topic)
            for submission in (one for one in roster.submissions if one.topic == topic):
                if not submission.handed_in:
                    course.enrol(submission.student)
                    yield Result(submission, handed_in=False), False
                    continue
                job, entry = _task(course, submission, marking)
                known = journal.entries.get((submission.student, topic))
                if again or known is None or known.key != entry.key or submission.student not in recorded:
                    todo[job] = entry
                    continue
                if known.late != entry.late:
                    course.penalise(submission.student, topic, submission.timestamp)
                    journal.add(replace(known, late=entry.late))
                yield known.result, False
        for job, marked in each(marking.mark, todo, marking.start, marking.workers):
            marked = marked or not_marked(job, KILLED)
            submission = job.submission
            course.record(
                submission.student, submission.topic, marked.submitted, marked.autograded, submission.timestamp
            )
            journal.add(replace(todo[job], result=marked.result))
            yield marked.result, True


def _task(course: Course, submission: Submission, marking: Marking) -> tuple[Job, Entry]:
    """What there is to do for a submission, and what the journal will say of it."""
    job = Job(
        submission,
        course.released(submission.topic),
        secret(course.root),
        exam_fingerprint(submission.topic),
        marking.limits,
        marking.devices,
    )
    depends = (job.secret, job.fingerprint, job.limits, job.devices, submission.notes)
    key = hashlib.sha256(repr(depends).encode("utf-8", "surrogateescape"))
    key.update(job.released.read_bytes())
    key.update(_content(submission))
    due = course.rules.due.get(submission.topic)
    late = hashlib.sha256(repr((submission.timestamp, due, course.rules.late)).encode())
    return job, Entry(key.hexdigest(), late.hexdigest(), Result(submission))


def _content(submission: Submission) -> bytes:
    """What the file holds, or what it is where it is not to be read."""
    try:
        about = submission.path.lstat()
        if stat.S_ISREG(about.st_mode) and about.st_size <= MOST_BYTES:
            return submission.path.read_bytes()
    except OSError as error:
        return repr(error).encode()
    return repr((about.st_mode, about.st_size)).encode()


@contextmanager
def _alone(course: Course) -> Iterator[None]:
    """Nobody else writes this course's gradebook in the block; the lock goes with the process that holds it."""
    with (course.root / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CourseError(f"Another `autograder grade` is at work in {course.root}: wait for it to end.") from None
        yield
