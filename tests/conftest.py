"""Options that all tests share: one topic alone for its author, and more seeds for the slow run."""

from __future__ import annotations

import random
from importlib.util import find_spec
from typing import Any

import pytest

from autograder.course import topics
from autograder.engine.checks import Gradients, Properties, Values
from autograder.engine.exam import Exam
from autograder.exams import exams_of


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--topic", help="only the tests of this topic")
    parser.addoption("--kills", type=int, default=20, help="kills of a grading process (200 in `make slow`)")
    parser.addoption("--mutations", type=int, default=200, help="mutated notebooks to take in (10000 in `make slow`)")
    parser.addoption("--seeds", type=int, default=1, help="seeds for the tolerance tests (1000 in `make slow`)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument ``topic`` runs for every topic, one with ``exercise`` for every exercise.

    ``formula`` is an exercise whose answer is compared with a formula, ``lawful`` one that is known by its laws alone:
    neither is a test of tests or a counterexample.
    """
    only = metafunc.config.getoption("topic")
    chosen = [only] if only else list(topics())
    if "topic" in metafunc.fixturenames:
        metafunc.parametrize("topic", chosen)
    if "exercise" in metafunc.fixturenames:
        # One worker takes all tests of an exercise, one after another: what is right for a seed is worked out once.
        params = [_named(exam, pytest.mark.xdist_group(exam.name)) for topic in chosen for exam in exams_of(topic)]
        metafunc.parametrize("exercise", params, scope="session")
    exams = [exam for topic in chosen for exam in exams_of(topic)]
    if "formula" in metafunc.fixturenames:
        metafunc.parametrize("formula", [_named(exam) for exam in exams if _has_formula(exam)])
    if "lawful" in metafunc.fixturenames:
        metafunc.parametrize("lawful", [exam.name for exam in exams if _has_laws(exam) and not _has_formula(exam)])


@pytest.fixture(scope="session")
def seed(exercise: str) -> int:
    """What an exercise is examined with: another seed in each run of the tests, one for all tests of the exercise."""
    return random.randrange(2**31)


def _named(exam: Exam, *marks: pytest.MarkDecorator) -> Any:
    """The exercise's name; its tests are left out where what it needs is not installed."""
    missing = exam.needs is not None and find_spec(exam.needs) is None
    skip = pytest.mark.skipif(missing, reason=f"{exam.needs} is not installed")
    return pytest.param(exam.name, marks=(skip, *marks))


def _has_formula(exam: Exam) -> bool:
    return any(isinstance(check, (Values, Gradients)) for check in exam.checks)


def _has_laws(exam: Exam) -> bool:
    return any(isinstance(check, Properties) for check in exam.checks)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--topic``, tests that are of no topic are left out."""
    if config.getoption("topic") is None:
        return
    chosen = [
        item for item in items if {"topic", "exercise", "formula", "lawful"} & set(getattr(item, "fixturenames", ()))
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
