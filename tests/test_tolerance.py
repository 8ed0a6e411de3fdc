"""The rule of right and wrong, held to account: over many seeds no right answer fails, and 2 % off always does.

A few seeds here; `make slow` takes a thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autograder.answer.local import LocalAnswer
from autograder.answer.settings import exam_settings
from autograder.engine.checks import Gradients, Plan, Probe, Properties, Values
from autograder.engine.exam import Exam
from autograder.engine.subject import Observation, Subject
from autograder.exams import find_exam


def _probes(exam: Exam, seed: int) -> list[Probe]:
    """What the rule decides; gradcheck has a rule of its own."""
    plan = Plan(exam, seed, ("cpu",))
    probes = [probe for check in exam.checks if isinstance(check, (Values, Gradients)) for probe in check.probes(plan)]
    return [probe for probe in probes if "finite differences" not in probe.case]


def _two_percent_more(seen: Observation) -> Observation:
    return Observation(tuple(None if value is None else 1.02 * value for value in seen.tensors), seen.facts, seen.error)


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> range:
    return range(request.config.getoption("--seeds"))


def _subjects(exam: Exam) -> dict[str, Subject]:
    return {variant.name: Subject(LocalAnswer(variant.implementation), exam) for variant in exam.variants}


def _is_nothing(seen: Observation) -> bool:
    """Whether the results are zero but for rounding, where 2 % more is no error."""
    return all(value is None or float(value.nan_to_num(0.0, 0.0, 0.0).abs().max()) < 1e-5 for value in seen.tensors)


def test_no_right_answer_fails_and_two_percent_always_do(formula: str, seeds: range) -> None:
    exam = find_exam(formula)
    subjects = _subjects(exam)
    false_failures, missed = [], []
    with exam_settings():
        for seed in seeds:
            for probe in _probes(exam, seed):
                for name, subject in subjects.items():
                    seen = probe.observe(subject)
                    problem = probe.judge(seen)
                    if problem is not None:
                        false_failures.append(f"{name}, seed {seed}: {problem}")
                    # Coarse dtypes look for gross errors only; 2 % more of nothing is nothing.
                    visible = probe.telling and seen.tensors and not _is_nothing(seen)
                    if visible and probe.judge(_two_percent_more(seen)) is None:
                        missed.append(f"{name}, seed {seed}: {probe.case}")
    assert not false_failures, "\n".join([f"{len(false_failures)} false failures", *false_failures[:20]])
    assert not missed, "\n".join([f"{len(missed)} errors of 2 % not seen", *missed[:20]])


def test_no_right_answer_breaks_a_law_and_two_percent_always_do(lawful: str, seeds: range) -> None:
    exam = find_exam(lawful)
    broken, missed = [], []
    with exam_settings():
        for seed in seeds:
            plan = Plan(exam, seed, ("cpu",))
            probes = [probe for check in exam.checks for probe in check.probes(plan)]
            for variant in exam.variants:
                right = Subject(LocalAnswer(variant.implementation), exam)
                problems = [probe.judge(probe.observe(right)) for probe in probes]
                broken += [f"{variant.name}, seed {seed}: {problem}" for problem in problems if problem]
            # One is enough: the laws see what an answer gives, not how it is written.
            more = Subject(_two_percent_too_much(exam.variants[0].implementation), exam)
            if not any(probe.judge(probe.observe(more)) for probe in probes):
                missed.append(f"seed {seed}")
    assert not broken, "\n".join([f"{len(broken)} false failures", *broken[:20]])
    assert not missed, "\n".join([f"{len(missed)} errors of 2 % not seen", *missed[:20]])


def test_no_right_answer_breaks_a_law_beside_the_formula(formula: str, seeds: range) -> None:
    exam = find_exam(formula)
    laws = [check for check in exam.checks if isinstance(check, Properties) and check.points]
    broken = []
    with exam_settings():
        for seed in seeds if laws else ():
            plan, subjects = Plan(exam, seed, ("cpu",)), _subjects(exam)
            for probe in [probe for check in laws for probe in check.probes(plan)]:
                for name, subject in subjects.items():
                    problem = probe.judge(plan.observe(probe, subject))
                    broken += [f"{name}, seed {seed}: {problem}"] if problem else []
    assert not broken, "\n".join([f"{len(broken)} false failures", *broken[:20]])


def _two_percent_too_much(answer: Callable[..., Any]) -> LocalAnswer:
    return LocalAnswer(lambda *args, **kwargs: 1.02 * answer(*args, **kwargs))
