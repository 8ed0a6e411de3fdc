"""A class that is marked without running anything, for tests of everything around the marking."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import nbformat

from autograder.classroom.intake import put_right, read_notebook
from autograder.classroom.marking import _write_verdict, verdicts_of
from autograder.classroom.result import Result
from autograder.classroom.seeds import derived_seed
from autograder.classroom.work import Job, Marked
from autograder.notebooks.translate import exam_of, exercise_path
from autograder.verdict import Verdict

TOPIC = "softmax"


def write_class(folder: Path, students: int) -> None:
    """Everybody hands in the notebook as it was handed out."""
    for number in range(students):
        (folder / f"student-{number:03}").mkdir(parents=True)
        shutil.copy(exercise_path(TOPIC), folder / f"student-{number:03}")


def mark(job: Job) -> Marked:
    """Points that depend on the student and on what was handed in, and on nothing else."""
    notebook, notes = read_notebook(job.submission.path)
    submitted = nbformat.writes(notebook)
    put_right(notebook, nbformat.read(job.released, as_version=4), TOPIC, notes, None)
    for cell in notebook.cells:
        exercise = exam_of(cell)
        if exercise is not None:
            seed = derived_seed(job.secret, submitted, f"{job.submission.student} {exercise}")
            most = float(cell.metadata.nbgrader.points)
            _write_verdict(cell, Verdict(exercise, most * (seed % 100) / 100, most, (), None, seed, ("cpu",)))
    return Marked(submitted, nbformat.writes(notebook), Result(job.submission, verdicts_of(notebook)))


def mark_or_die(job: Job) -> Marked:
    """As ``mark``, but the process is killed: the first time for some, every time for one."""
    number = int(job.submission.student.removeprefix("student-"))
    killed = job.submission.path.with_suffix(".killed")
    time.sleep(0.02)
    if number == 3 or (number % 3 == 0 and not killed.exists()):
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return mark(job)
