"""Runs a submission's cells and has what they define examined; reports what came of each step.

A process that has to be stopped costs its student the step it was in, not the others: the rest runs again in a fresh
process without that step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from autograder.bridge.peer import RaisedThere, TimeLimit
from autograder.bridge.remote import RemoteAnswer
from autograder.sandbox.processes import StoppedError, StudentProcess
from autograder.sandbox.steps import CellStep, ExamStep, Limits, Step
from autograder.verdict import Verdict

ATTEMPTS = 4

Examine = Callable[[ExamStep, RemoteAnswer], Verdict]


@dataclass
class Outcome:
    """What came of a submission's steps, by their place in the notebook.

    ``failed`` holds the reason why a step has no result; ``broken`` are the exams that failed by no fault of the
    student's.
    """

    outputs: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)


def run_submission(steps: Sequence[Step], limits: Limits, examine: Examine) -> Outcome:
    """Runs ``steps``, which are in the notebook's order; exams come after the last cell, each with ``examine``."""
    outcome = Outcome()
    reason = ""
    end = time.monotonic() + limits.total_seconds
    for _ in range(ATTEMPTS):
        todo = [step for step in steps if step.place not in outcome.failed and step.place not in outcome.verdicts]
        attempt = _Attempt(limits, end, examine, outcome)
        try:
            attempt.run(todo)
        except StoppedError as stopped:
            reason = str(stopped)
            if attempt.place is None:
                break
            outcome.failed[attempt.place] = reason
        else:
            return outcome
    for step in steps:
        if isinstance(step, ExamStep) and step.place not in outcome.verdicts:
            outcome.failed.setdefault(step.place, reason)
    return outcome


class _Attempt:
    """One student process, from start to end. ``place`` is that of the step it is in."""

    def __init__(self, limits: Limits, end: float, examine: Examine, outcome: Outcome) -> None:
        self.limits, self.end, self.examine, self.outcome = limits, end, examine, outcome
        self.place: int | None = None

    def run(self, steps: Sequence[Step]) -> None:
        """Takes the steps one after another.

        Raises:
            StoppedError: the process did not get to the end.
        """
        student = StudentProcess(self.limits, self.end)
        try:
            for step in steps:
                self.place = step.place
                if isinstance(step, CellStep):
                    self.outcome.outputs[step.place], self.outcome.counts[step.place] = student.run(step)
                else:
                    student.note(step)
            # Inputs are drawn from here on: no cell can have seen them.
            for step in steps:
                if isinstance(step, ExamStep):
                    self.place = step.place
                    self._examine(step, student)
        finally:
            student.close()

    def _examine(self, step: ExamStep, student: StudentProcess) -> None:
        try:
            with student.answer(step) as answer:
                self.outcome.verdicts[step.place] = self.examine(step, answer)
        except TimeLimit:
            reason = f"{step.exercise} took longer than {self.limits.step_seconds:g} s and was stopped."
            self.outcome.failed[step.place] = reason
        except RaisedThere as error:
            self.outcome.failed[step.place] = f"{step.exercise} can't be looked at: {error.kinds[0]}: {error}"
        except Exception as error:
            self.outcome.failed[step.place] = (
                f"The exam of {step.exercise} broke off with {type(error).__name__}: {error}"
            )
            self.outcome.broken.add(step.place)
