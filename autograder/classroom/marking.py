"""A repaired notebook, run and marked: every cell gets its outputs, every exam cell its feedback and its points."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_output

from autograder.notebooks.translate import exam_of
from autograder.sandbox.steps import CellStep, ExamStep, Limits, Step
from autograder.verdict import Finding, Verdict

if TYPE_CHECKING:
    from autograder.answer import Answer
    from autograder.sandbox.submission import Examine, Outcome

# A verdict travels in its exam cell's output, beside the number that nbgrader reads.
VERDICT_MIME = "application/vnd.autograder.verdict+json"

# The one finding of a verdict that no exam gave: the answer had to be stopped, or the exam itself has a fault.
NOT_EXAMINED, BROKEN = "could not be examined", "the exam broke off"
# The error that a cell shows which was stopped from outside.
STOPPED = "Stopped"


def mark_notebook(
    notebook: NotebookNode,
    seed_of: Callable[[str], int],
    *,
    limits: Limits,
    devices: tuple[str, ...] | None,
    only: str | None = None,
    problem: str | None = None,
) -> None:
    """Runs ``notebook`` in a process of its own and writes every output; exam cells themselves are never run.

    Args:
        notebook: as ``repair`` leaves it.
        seed_of: the seed for an exercise's exam.
        limits: for the student process.
        devices: where answers are examined; None means wherever they can be.
        only: the one exercise to examine; the other exam cells are left empty.
        problem: why nothing can be run; every exercise then has 0 points for this reason.
    """
    # Imported here: it brings PyTorch along, which whoever only reads marks can do without.
    from autograder.sandbox.submission import Outcome, run_submission

    steps = steps_of(notebook, seed_of, only)
    exams = [step for step in steps if isinstance(step, ExamStep)]
    if problem is None:
        outcome = run_submission(steps, limits, _examine_on(devices))
    else:
        outcome = Outcome(failed={step.place: problem for step in exams})
    for step in steps:
        if isinstance(step, CellStep):
            _write_cell(notebook.cells[step.place], step.place, outcome)
    for step in exams:
        _write_verdict(notebook.cells[step.place], _verdict(step, outcome))


def steps_of(notebook: NotebookNode, seed_of: Callable[[str], int], only: str | None = None) -> list[Step]:
    """What there is to be done for ``notebook``, in its order; ``only`` is the one exercise to examine."""
    steps: list[Step] = []
    for place, cell in enumerate(notebook.cells):
        exercise = exam_of(cell)
        if exercise is not None and only in (None, exercise):
            steps.append(ExamStep(place, exercise, float(cell.metadata.nbgrader.points), seed_of(exercise)))
        elif exercise is None and cell.cell_type == "code":
            steps.append(CellStep(place, cell.source))
    return steps


def verdicts_of(notebook: NotebookNode) -> dict[str, Verdict]:
    """The verdicts that ``mark_notebook`` wrote, by exercise."""
    return {
        str(exam_of(cell)): Verdict.from_dict(output.data[VERDICT_MIME])
        for cell in notebook.cells
        if exam_of(cell) is not None
        for output in cell.outputs
        if VERDICT_MIME in output.get("data", {})
    }


def not_examined(verdict: Verdict) -> str | None:
    """Why no exam gave ``verdict``, or None if one did."""
    return next((finding.message for finding in verdict.findings if finding.name in (NOT_EXAMINED, BROKEN)), None)


def is_broken(verdict: Verdict) -> bool:
    """Whether the exam itself failed, so that a person has to look at the answer."""
    return any(finding.name == BROKEN for finding in verdict.findings)


def stopped_in(notebook: NotebookNode) -> list[str]:
    """Why cells of a marked notebook were stopped from outside."""
    return [
        output.evalue
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error" and output.ename == STOPPED and output.traceback == [_traceback(output.evalue)]
    ]


def _examine_on(devices: tuple[str, ...] | None) -> Examine:
    # Imported as late as can be: the sandbox loads PyTorch at the same time.
    from autograder.engine.examine import examine_answer

    def examine(step: ExamStep, answer: Answer) -> Verdict:
        return examine_answer(step.exercise, answer, seed=step.seed, points=step.points, devices=devices)

    return examine


def _write_cell(cell: NotebookNode, place: int, outcome: Outcome) -> None:
    cell.execution_count = outcome.counts.get(place)
    cell.outputs = [from_dict(output) for output in outcome.outputs.get(place, [])]
    if place in outcome.failed:
        reason = outcome.failed[place]
        cell.outputs = [new_output("error", ename=STOPPED, evalue=reason, traceback=[_traceback(reason)])]


def _traceback(reason: str) -> str:
    return f"{STOPPED}: {reason}"


def _verdict(step: ExamStep, outcome: Outcome) -> Verdict:
    """What the exam said, or a zero with the reason why it could not say anything."""
    if step.place in outcome.verdicts:
        verdict = outcome.verdicts[step.place]
        if not (math.isfinite(verdict.points) and 0 <= verdict.points <= step.points):
            raise ValueError(f"{step.exercise}: {verdict.points} of {step.points} points")
        return verdict
    reason = outcome.failed[step.place]
    failed = Finding(BROKEN if step.place in outcome.broken else NOT_EXAMINED, False, 0.0, step.points, reason)
    return Verdict(step.exercise, 0.0, step.points, (failed,), None, step.seed, ("not run",))


def _write_verdict(cell: NotebookNode, verdict: Verdict) -> None:
    """The feedback to read, and nbgrader's partial mark: a plain number as the cell's result."""
    number = {"text/plain": f"{verdict.points!r}", VERDICT_MIME: verdict.to_dict()}
    cell.execution_count = None
    cell.outputs = [
        new_output("stream", name="stdout", text=f"{verdict}\n"),
        new_output("execute_result", data=from_dict(number)),
    ]
