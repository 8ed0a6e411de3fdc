"""Runs in a process of its own: a submission's cells, then the exams of what they defined."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from autograder.sandbox.steps import CellStep, ExamStep, Limits, Message, Step

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from autograder.sandbox.shell import NotebookShell

LINGER_SECONDS = 10.0

Send = Callable[[Message], None]


class TimeLimit(BaseException):
    """Raised in a step that takes too long; no Exception, so that ``except Exception`` lets it pass."""


def run(steps: Sequence[Step], limits: Limits, devices: tuple[str, ...] | None, folder: str, pipe: Connection) -> None:
    """A student process from its first cell to its last verdict.

    Args:
        steps: the cells and exams in the notebook's order.
        limits: those that the process sets itself; time and memory are watched from outside as well.
        devices: where answers are examined; None means wherever they can be.
        folder: an empty one to work in.
        pipe: takes the messages.
    """
    os.setsid()
    _set_limits(limits, len(steps))
    _settle(folder)
    send = _sender(os.dup(pipe.fileno()))
    answers = _run_cells(steps, limits, send)
    examine_answers(answers, limits.step_seconds, devices, send)
    send({"done": True})
    # What it has started can be found, and ended, as long as it is here itself.
    time.sleep(LINGER_SECONDS)


def _sender(descriptor: int) -> Send:
    def send(message: Message) -> None:
        line = json.dumps(message).encode() + b"\n"
        while line:
            line = line[os.write(descriptor, line) :]

    return send


def _set_limits(limits: Limits, steps: int) -> None:
    """Those that the kernel keeps, and that hold even if the watching process dies."""
    seconds = int(min(limits.total_seconds, steps * limits.step_seconds) * (os.cpu_count() or 1)) + 60
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _settle(folder: str) -> None:
    """An empty folder to work in, nothing to read from, and nobody who reads what is written past ``sys.stdout``."""
    home, work = os.path.join(folder, "home"), os.path.join(folder, "work")
    os.mkdir(home)
    os.mkdir(work)
    os.environ["HOME"] = os.environ["TMPDIR"] = os.environ["IPYTHONDIR"] = home
    os.chdir(work)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)


def _run_cells(steps: Sequence[Step], limits: Limits, send: Send) -> list[tuple[ExamStep, Any]]:
    """Runs every cell, and notes for each exam what its exercise's name stands for at that point."""
    from autograder.sandbox.shell import NotebookShell, Outputs, Stream

    outputs = Outputs(limits.output_bytes)
    shell = NotebookShell.instance(outputs)
    sys.stdout, sys.stderr = Stream(outputs, "stdout"), Stream(outputs, "stderr")
    _seed_everything()
    answers: list[tuple[ExamStep, Any]] = []
    for step in steps:
        if isinstance(step, ExamStep):
            answers.append((step, shell.user_ns.get(step.exercise)))
        else:
            send({"begin": step.place})
            _run_cell(step, shell, limits.step_seconds)
            send({"cell": step.place, "count": shell.execution_count - 1, "outputs": outputs.finished()})
            outputs.start()
    # An exam cell that stands before the answer, as when cells were moved, still finds it.
    return [(step, shell.user_ns.get(step.exercise) if answer is None else answer) for step, answer in answers]


def _run_cell(step: CellStep, shell: NotebookShell, seconds: float) -> None:
    try:
        with _time_limit(seconds):
            shell.run_cell(step.source, store_history=True)
    except TimeLimit:
        shell.showtraceback(exception_only=True)


def _seed_everything() -> None:
    """A rerun of the same notebook draws the same numbers."""
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


def examine_answers(
    answers: Sequence[tuple[ExamStep, Any]], seconds: float, devices: tuple[str, ...] | None, send: Send
) -> None:
    """The one place where exams meet student code: a trusted process with proxies for the answers takes over here."""
    for step, answer in answers:
        send({"begin": step.place})
        try:
            with _time_limit(seconds):
                verdict = _examine(step, answer, devices)
        except TimeLimit:
            send({"failed": step.place, "reason": f"{step.exercise} took longer than {seconds:g} s and was stopped."})
        except Exception as error:
            reason = f"The exam of {step.exercise} broke off with {type(error).__name__}: {error}"
            send({"failed": step.place, "reason": reason, "broken": True})
        else:
            send({"verdict": step.place, "data": verdict})


def _examine(step: ExamStep, answer: Any, devices: tuple[str, ...] | None) -> Message:
    from autograder.engine.examine import examine

    return examine(step.exercise, answer, seed=step.seed, points=step.points, devices=devices).to_dict()


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeLimit(f"longer than {seconds:g} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
