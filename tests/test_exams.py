"""The catalogue proves itself: wrong answers lose points and are named, right ones get full marks."""

from __future__ import annotations

import importlib
import random
from types import FunctionType, new_class
from typing import Any

import torch
from torch import Tensor

from autograder import examine
from autograder.course import topics
from autograder.engine.exam import Case, Draw, Here, Model
from autograder.engine.examine import _plan
from autograder.exams import exams_of, find_exam


def test_every_misconception_loses_points_and_is_named(exercise: str, seed: int) -> None:
    for wrong in find_exam(exercise).misconceptions:
        verdict = examine(exercise, wrong.implementation, seed=seed)
        assert verdict.points < verdict.max_points, f"{wrong.name} gets full marks:\n{verdict}"
        named = verdict.diagnosis and verdict.diagnosis.name
        assert named == wrong.name, f"{wrong.name} is taken for {named}:\n{verdict}"


def test_the_same_mistake_of_somebody_else_is_named_too(exercise: str, seed: int) -> None:
    """What was seen of a misconception itself is kept; this one is looked at anew, and has to do the same again."""
    wrong = random.Random(seed).choice(find_exam(exercise).misconceptions)
    verdict = examine(exercise, _copied(wrong.implementation), seed=seed)
    assert verdict.points < verdict.max_points, f"{wrong.name} gets full marks:\n{verdict}"
    named = verdict.diagnosis and verdict.diagnosis.name
    assert named == wrong.name, f"{wrong.name} is taken for {named}:\n{verdict}"


def _copied(answer: Any) -> Any:
    """Another function or class that does the same."""
    if isinstance(answer, type):
        return new_class(answer.__name__, (answer,))
    other = FunctionType(answer.__code__, answer.__globals__, answer.__name__, answer.__defaults__, answer.__closure__)
    other.__kwdefaults__ = answer.__kwdefaults__
    return other


def test_every_variant_gets_full_marks(exercise: str, seed: int) -> None:
    for right in find_exam(exercise).variants:
        verdict = examine(exercise, right.implementation, seed=seed)
        assert verdict.points == verdict.max_points, f"{right.name} loses points:\n{verdict}"
        assert verdict.passed
        assert verdict.diagnosis is None


def test_the_solution_gets_full_marks(exercise: str, seed: int) -> None:
    solutions = importlib.import_module(f"solutions.{find_exam(exercise).topic}")
    verdict = examine(exercise, getattr(solutions, exercise), seed=seed)
    assert verdict.points == verdict.max_points, str(verdict)
    assert all(finding.passed for finding in verdict.findings), str(verdict)


def test_the_catalogue_has_substance(exercise: str) -> None:
    exam = find_exam(exercise)
    # There are fewer ways to write a test of tests than to write a formula, and fewer yet to miss a counterexample.
    wrong_at_least, right_at_least = {"check": (8, 2), "find": (4, 3)}.get(exercise.split("_")[0], (8, 6))
    assert len(exam.misconceptions) >= wrong_at_least
    assert len(exam.variants) >= right_at_least
    names = [wrong.name for wrong in exam.misconceptions] + [right.name for right in exam.variants]
    assert len(names) == len(set(names))


def test_hints_are_sentences(exercise: str) -> None:
    for wrong in find_exam(exercise).misconceptions:
        for text in (wrong.hint, wrong.symptom):
            assert text == text.strip()
            assert text.endswith((".", "?"))
        assert wrong.seen is None or wrong.seen.startswith("https://")


def test_names_are_unique_in_the_course() -> None:
    names = [exam.name for topic in topics() for exam in exams_of(topic)]
    assert len(names) == len(set(names))


def test_a_seed_replays_the_cases(exercise: str) -> None:
    first, second = (list(find_exam(exercise).cases(Draw(7))) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name
        assert all(map(_same, _values(one), _values(other))), one.name


def _values(case: Case) -> list[Any]:
    return [*case.args, *case.kwargs.values(), *(case.init or {}).values(), *(case.state or {}).values()]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Model):
        return all(map(torch.equal, one.state.values(), other.state.values()))
    return bool(one == other or type(one) is type(other) is Here)


def test_a_seed_replays_a_verdict(topic: str) -> None:
    exam = exams_of(topic)[0]
    first = examine(exam.name, exam.misconceptions[0].implementation, seed=7)
    _plan.cache_clear()  # what was worked out for the first is gone
    assert examine(exam.name, exam.misconceptions[0].implementation, seed=7) == first
