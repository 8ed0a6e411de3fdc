"""A student's own notebook, marked as it would be in class, but without a gradebook and with new inputs each time."""

from __future__ import annotations

import random
from pathlib import Path

from autograder.classroom.intake import read_notebook, released_notebook, topic_of
from autograder.classroom.marking import mark_notebook, verdicts_of
from autograder.course import CourseError
from autograder.notebooks.repair import repair
from autograder.notebooks.translate import exercises_of
from autograder.sandbox.steps import Limits
from autograder.verdict import Verdict


def check_notebook(
    path: Path, exercise: str | None, seed: int | None, limits: Limits, devices: tuple[str, ...] | None
) -> list[Verdict]:
    """The verdicts on the notebook at ``path``, for one exercise or for all; ``seed`` replays a run.

    Raises:
        CourseError: it is no notebook of this course, or ``exercise`` is none of its exercises.
    """
    if exercise is not None:
        # Imported here: it brings PyTorch along.
        from autograder.exams import find_exam

        find_exam(exercise)
    notebook, _ = read_notebook(path)
    topic = topic_of(notebook, path)
    repair(notebook, released_notebook(topic))
    if exercise is not None and exercise not in exercises_of(notebook):
        raise CourseError(f"{path.name} holds the exercises of {topic}; {exercise} is not among them.")
    drawn = random.randrange(2**31) if seed is None else seed
    mark_notebook(notebook, lambda name: drawn, limits=limits, devices=devices, only=exercise)
    return list(verdicts_of(notebook).values())
