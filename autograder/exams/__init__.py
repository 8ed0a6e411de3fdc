"""The exams, one module a topic, found by the exercise's name or by the topic's."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache

from autograder.course import CourseError
from autograder.engine.exam import Exam


@cache
def exams_of(topic: str) -> tuple[Exam, ...]:
    """The exams of ``topic`` in the order of its notebook.

    Raises:
        CourseError: there is no such topic.
    """
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if topic not in known:
        raise CourseError(f"There is no topic called {topic!r}.{_nearest(topic, known)}")
    module = importlib.import_module(f"{__name__}.{topic}")
    return tuple(value for value in vars(module).values() if isinstance(value, Exam) and value.topic == topic)


def find_exam(name: str) -> Exam:
    """The exam of the exercise ``name``.

    Raises:
        CourseError: there is none; the sentence suggests the nearest name.
    """
    every = {exam.name: exam for module in pkgutil.iter_modules(__path__) for exam in exams_of(module.name)}
    if name not in every:
        raise CourseError(f"There is no exercise called {name!r}.{_nearest(name, list(every))}")
    return every[name]


def _nearest(name: str, known: list[str]) -> str:
    # Compared without case: the nearest to "softMax" is "softmax".
    lower = {word.lower(): word for word in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return f" Did you mean {lower[close[0]]!r}?" if close else f" There are {', '.join(known)}."
