"""What it costs to keep a class's code out of the exams' process: the same submissions here and across the boundary.

Both run on one core, as a worker does.

python -m tests.benchmarks.boundary --students 12
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from autograder import examine
from autograder.classroom.marking import steps_of
from autograder.classroom.sample_class import write_class
from autograder.classroom.work import keep_to_one_core
from autograder.course import topics
from autograder.engine.examine import examine_answer
from autograder.sandbox.processes import StudentProcess, zygote
from autograder.sandbox.steps import CellStep, ExamStep, Limits, Step
from autograder.sandbox.submission import run_submission

SEED = 1


def here(steps: list[Step]) -> list[float]:
    """The marks, with cells and exams in this process."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()):
        for step in steps:
            if isinstance(step, CellStep):
                # As in a notebook, a cell that fails does not stop the others.
                with contextlib.suppress(Exception):
                    exec(step.source, namespace)
    exams = [step for step in steps if isinstance(step, ExamStep)]
    return [examine(step.exercise, namespace.get(step.exercise), seed=SEED).points for step in exams]


def across(steps: list[Step]) -> list[float]:
    """The marks, with the cells in a student process and the exams here."""
    outcome = run_submission(steps, Limits(), lambda step, answer: examine_answer(step.exercise, answer, seed=SEED))
    return [outcome.verdicts[step.place].points for step in steps if isinstance(step, ExamStep)]


def until_the_first_cell() -> tuple[float, float]:
    """Seconds from nothing to a process that waits for its first cell, and to that cell's result."""
    start = time.perf_counter()
    process = StudentProcess(Limits(), math.inf)
    ready = time.perf_counter() - start
    process.run(CellStep(0, "1"))
    done = time.perf_counter() - start
    process.close()
    return ready, done


def submissions(students: int) -> Iterator[list[Step]]:
    """The steps of every submission of a sample class."""
    with tempfile.TemporaryDirectory() as folder:
        list(write_class(Path(folder) / "class", students, SEED, list(topics())))
        for path in sorted(Path(folder).glob("class/*/*.ipynb")):
            yield steps_of(nbformat.read(path, as_version=4), lambda exercise: SEED)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=12)
    students = parser.parse_args().students
    print(zygote().isolation)
    across([CellStep(0, "1")])
    keep_to_one_core(0)
    times: list[tuple[float, float]] = []
    exams = 0
    for steps in submissions(students):
        here(steps)  # so that what is right has been worked out for both
        start = time.perf_counter()
        marks = here(steps)
        middle = time.perf_counter()
        assert across(steps) == marks, "the marks must not depend on where the answers live"
        times.append((middle - start, time.perf_counter() - middle))
        exams += len(marks)
    inside, outside = (sum(column) for column in zip(*times, strict=True))
    print(f"{len(times)} submissions, {exams} exams, the same marks on both ways")
    print(f"in one process {inside:.1f} s, across the boundary {outside:.1f} s: {outside / inside:.2f} times")
    extra = [b - a for a, b in times]
    each = sum(extra) / exams * 1000
    print(f"more for a submission: median {statistics.median(extra):.2f} s; for an exam: {each:.0f} ms")
    starts = [until_the_first_cell() for _ in range(20)]
    ready, done = (statistics.median(column) for column in zip(*starts, strict=True))
    print(
        f"from a submission's start to its process {ready * 1000:.0f} ms, to its first cell's end {done * 1000:.0f} ms"
    )


if __name__ == "__main__":
    main()
