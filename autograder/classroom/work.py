"""What a worker does with one submission: from the file to the marked notebook. It writes nothing."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_notebook

from autograder.classroom.intake import PROBLEM, REPAIRS, put_right, read_notebook, readable, refuse_link, topic_of
from autograder.classroom.marking import mark_notebook, not_examined, stopped_in, verdicts_of
from autograder.classroom.result import Result
from autograder.classroom.roster import Submission
from autograder.classroom.seeds import derived_seed
from autograder.course import CourseError
from autograder.notebooks.translate import EXERCISE
from autograder.sandbox.steps import Limits

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """A submission and all that marking it depends on.

    ``released`` is the notebook that students got, ``secret`` what seeds are derived from, ``fingerprint`` the exams'.
    """

    submission: Submission
    released: Path
    secret: str
    fingerprint: str
    limits: Limits
    devices: tuple[str, ...] | None


@dataclass(frozen=True)
class Marked:
    """What becomes of a submission: the notebook as nbgrader takes it in, as it was marked, and the result."""

    submitted: str
    autograded: str
    result: Result


def worker(number: int) -> Executor:
    """A process that marks, with a zygote of its own; those of different numbers are kept on different cores."""
    # Not forked: this process may have threads, and a fork of PyTorch after its first parallel operator hangs.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(number,))


def _begin(number: int) -> None:
    """Starts what takes a worker seconds; an interruption from the keyboard is its parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # Its parent may be killed: nobody wants to know any more what it finds out.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    from autograder.sandbox.processes import zygote

    # Its imports may go on elsewhere, while this process does its own.
    zygote()
    keep_to_one_core(number)


def keep_to_one_core(number: int) -> None:
    """From here on this process and its student processes have one core, where the system lets one choose.

    They only ever wait for each other. On one core they need not wake another one up with each of a thousand messages,
    which takes nearly as long as the rest of the work.
    """
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number % len(cores) :][:1])


def mark_submission(job: Job) -> Marked:
    """Marks a submission, whatever it holds."""
    submission = job.submission
    try:
        refuse_link(submission.path, submission.folder)
        notebook, notes = read_notebook(submission.path)
        topic_of(notebook, submission.path, submission.topic)
    except (CourseError, OSError) as error:
        return not_marked(job, readable(str(error)))
    except Exception as error:
        # Nobody can think of all that a file may hold, and none may stop the class.
        return not_marked(job, readable(f"{submission.path.name} can't be read: {type(error).__name__}."))
    return _marked(job, notebook, notes, None)


def not_marked(job: Job, problem: str) -> Marked:
    """What nbgrader gets for what can't be marked: an empty notebook has zero points there, too, with the reason."""
    return _marked(job, new_notebook(metadata={"autograder": {PROBLEM: problem}}), [], problem)


def _marked(job: Job, notebook: NotebookNode, notes: list[str], problem: str | None) -> Marked:
    submission, submitted = job.submission, nbformat.writes(notebook)
    released = nbformat.read(job.released, as_version=4)
    put_right(notebook, released, submission.topic, [*submission.notes, *notes], problem)
    mark_notebook(
        notebook,
        partial(derived_seed, job.secret, job.fingerprint),
        limits=job.limits,
        devices=job.devices,
        problem=problem,
    )
    return Marked(submitted, nbformat.writes(notebook), _result(job, notebook, released))


def _result(job: Job, notebook: NotebookNode, released: NotebookNode) -> Result:
    from autograder.sandbox.processes import zygote

    about = notebook.metadata.autograder
    verdicts = verdicts_of(notebook)
    reasons = [*stopped_in(notebook), *(not_examined(verdict) for verdict in verdicts.values())]
    return Result(
        job.submission,
        verdicts,
        about.get(PROBLEM),
        tuple(about.get(REPAIRS, ())),
        () if PROBLEM in about else tuple(dict.fromkeys(reason for reason in reasons if reason is not None)),
        _untouched(notebook, released),
        isolation="" if PROBLEM in about else zygote().isolation,
    )


def _untouched(graded: NotebookNode, released: NotebookNode) -> frozenset[str]:
    """The exercises whose cell still holds what was handed out."""
    handed_out = {cell.id: cell.source for cell in released.cells}
    return frozenset(
        name
        for cell in graded.cells
        for key, _, name in [cell.id.partition("-")]
        if key == EXERCISE and cell.source == handed_out.get(cell.id)
    )
