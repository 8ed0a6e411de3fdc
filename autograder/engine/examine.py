"""Runs an exam on an answer: devices, dtypes, guards, points, diagnosis. What is checked is in the exam."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch

from autograder.answer import Answer
from autograder.answer.local import LocalAnswer
from autograder.engine import devices as hardware
from autograder.engine.checks import Plan
from autograder.engine.diagnosis import Trial, diagnose, remember
from autograder.engine.exam import Case, Exam, each_kind
from autograder.engine.messages import SIX_DIGITS
from autograder.engine.subject import Observation, Subject
from autograder.exams import exams_of, find_exam
from autograder.verdict import Diagnosis, Finding, Verdict

# More than there are exercises: a class is asked all of them with one seed each, a submission at a time.
PLANS = 128

UNWRITTEN = NotImplementedError.__name__
NOT_WRITTEN = f"It is not written yet ({UNWRITTEN})."


def examine(
    name: str,
    candidate: Any,
    *,
    seed: int | None = None,
    points: float | None = None,
    devices: tuple[str, ...] | None = None,
) -> Verdict:
    """Marks ``candidate``, a function or an ``nn.Module`` class, as the answer to the exercise ``name``.

    ``seed`` replays a run (drawn if None), ``points`` is the most that can be earned (the exam's own if None),
    ``devices`` are those to run on (all that are present if None).

    Raises:
        CourseError: there is no such exercise, or no such device.
    """
    return examine_answer(name, LocalAnswer(candidate), seed=seed, points=points, devices=devices)


def examine_answer(
    name: str,
    answer: Answer,
    *,
    seed: int | None = None,
    points: float | None = None,
    devices: tuple[str, ...] | None = None,
) -> Verdict:
    """``examine`` for an answer wherever it lives."""
    exam = find_exam(name)
    chosen = hardware.choose(devices)
    plan = _plan(exam, random.randrange(2**31) if seed is None else seed, chosen[-1:] if exam.needs else chosen)
    maximum = exam.max_points if points is None else points
    reason = _not_an_answer(exam, answer)
    if reason is not None:
        return _zero(plan, maximum, reason)
    # The caller's own generator is left as it was.
    with torch.random.fork_rng(devices=()), answer.session():
        return _examine(plan, Subject(answer, exam), maximum)


@lru_cache(maxsize=PLANS)
def _plan(exam: Exam, seed: int, devices: tuple[str, ...]) -> Plan:
    """Kept for the next answer that is examined with the same seed: what is right does not depend on the answer."""
    return Plan(exam, seed, devices)


def mark(name: str, namespace: Mapping[str, Any], *, points: float) -> float:
    """What an exam cell of a notebook calls: prints the feedback on ``namespace[name]`` and gives its points.

    A plain, finite float is what nbgrader takes for a partial mark.
    """
    verdict = examine(name, namespace.get(name), points=points)
    print(verdict)
    return float(verdict.points)


def _examine(plan: Plan, subject: Subject, maximum: float) -> Verdict:
    exam = plan.exam
    kinds = each_kind(plan.cases)
    if kinds and all(_first_look(plan, subject, case).error == UNWRITTEN for case in kinds):
        return _zero(plan, maximum, NOT_WRITTEN)
    calls = [plan.call(case, _first_dtype(plan), plan.devices[0]) for case in kinds]
    forbidden = subject.forbidden(calls, exam.may_not_call)
    if forbidden:
        reason = f"The answer uses {' and '.join(forbidden)}, which is what this exercise asks you to write yourself."
        return _zero(plan, maximum, reason)
    findings, trials = _run(plan, subject, maximum)
    remember(plan, subject.answer.target, trials)
    if all(trial.seen.error == UNWRITTEN for trial in trials):
        return _zero(plan, maximum, NOT_WRITTEN)
    note = ""
    if any(trial.problem for trial in trials):
        earlier = _earlier_answers(exam)
        used = sorted(subject.answer.helpers(set(earlier)))
        if used:
            with subject.answer.rebound({helper: earlier[helper] for helper in used}):
                subject.forget()
                fairer, trials_then = _run(plan, subject, maximum)
            gained = _sum(fairer) - _sum(findings)
            # Without it two mistakes that cancel would be charged as one.
            if gained >= 0:
                findings, trials = fairer, trials_then
            if gained > 0 and any(trial.problem for trial in trials):
                names = " and ".join(f"`{helper}`" for helper in used)
                note = f"It calls your {names}, where a mistake lies: mend that first. It is not charged here again."
    found = diagnose(plan, trials) if any(trial.problem for trial in trials) else None
    diagnosis = None if found is None else Diagnosis(found.name, found.hint, found.seen)
    if diagnosis is not None:
        # A guess at the mistake is for answers whose mistake nobody knows.
        findings = [replace(finding, message=finding.message.replace(SIX_DIGITS, "")) for finding in findings]
    return _verdict(plan, maximum, findings, diagnosis, note)


def _first_look(plan: Plan, subject: Subject, case: Case) -> Observation:
    """A call that has to be made anyhow."""
    plan.begin()
    return subject.call(plan.inputs(case, _first_dtype(plan), plan.devices[0]))


def _run(plan: Plan, subject: Subject, maximum: float) -> tuple[list[Finding], list[Trial]]:
    """Every check of the exam, and every probe as it went."""
    findings, trials = [], []
    unit = maximum / plan.exam.max_points
    for check, probes in plan.probes:
        # In an order that nobody knows, nor can tell from the seed: a test of tests could otherwise tell right answers
        # from wrong ones by counting.
        order = random.SystemRandom().sample(range(len(probes)), len(probes))
        seen = {place: plan.observe(probes[place], subject) for place in order}
        tried = [Trial(probe, seen[place], probe.judge(seen[place])) for place, probe in enumerate(probes)]
        problems = [trial.problem for trial in tried]
        # The first problem of each case; the same case in another dtype says the same again.
        first = {trial.probe.case: trial.problem for trial in reversed(tried) if trial.problem}
        found = list(dict.fromkeys(reversed(first.values())))
        share = check.share(problems)
        told = "\n".join(check.told(found))
        findings.append(Finding(check.name, not found, share * check.points * unit, check.points * unit, told))
        if check.points:
            trials += tried
    return findings, trials


def _earlier_answers(exam: Exam) -> dict[str, Callable[..., Any]]:
    """What stands in for the notebook's answers to the exercises before this one."""
    stand_ins: dict[str, Callable[..., Any]] = {}
    for other in exams_of(exam.topic):
        if other is exam:
            break
        stand_ins[other.name] = other.variants[0].implementation
    return stand_ins


def _not_an_answer(exam: Exam, answer: Answer) -> str | None:
    if exam.needs is not None and find_spec(exam.needs) is None:
        return f"`{exam.name}` needs the package {exam.needs}, which this machine does not have: it is not marked here."
    if answer.described == "None":
        return f"There is no `{exam.name}` in the notebook: its cell is missing, or stopped with an error."
    if exam.skeleton is not None and not answer.is_class:
        return f"`{exam.name}` is to be a class; it is {answer.described}."
    if not answer.is_callable:
        return f"`{exam.name}` is to be a function; it is {answer.described}."
    return None


def _zero(plan: Plan, maximum: float, reason: str) -> Verdict:
    unit = maximum / plan.exam.max_points
    findings = [Finding(check.name, False, 0.0, check.points * unit) for check in plan.exam.checks if check.points]
    return _verdict(plan, maximum, findings, None, reason)


def _verdict(plan: Plan, maximum: float, findings: list[Finding], diagnosis: Diagnosis | None, note: str) -> Verdict:
    # Rounded so that a full mark is exactly the maximum, not a sum of shares that misses it.
    points = round(_sum(findings), 6)
    return Verdict(
        plan.exam.name,
        points,
        maximum,
        tuple(findings),
        diagnosis,
        plan.seed,
        hardware.describe(plan.devices, plan.exam.asked),
        note,
    )


def _sum(findings: list[Finding]) -> float:
    return sum(finding.points for finding in findings)


def _first_dtype(plan: Plan) -> Any:
    return plan.exam.asked(hardware.exact_dtypes(plan.devices[0]))[0]
