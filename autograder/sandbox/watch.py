"""Runs a submission's steps in a process of its own, watches time, memory and output, and reports what came of each.

A process that has to be stopped costs its student the step it was in, not the others: the rest runs again in a fresh
process without that step.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerProcess
from types import ModuleType
from typing import Any

import psutil

from autograder.sandbox import student
from autograder.sandbox.steps import ExamStep, Limits, Message, Step

ATTEMPTS = 4
# A step stops itself when its time is up; this is for one that can't be interrupted.
GRACE_SECONDS = 5.0
STARTING_SECONDS = 120.0
POLL_SECONDS = 0.05
# Finding a process's children means reading the whole process table.
FAMILY_SECONDS = 0.5

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["autograder.sandbox.zygote"])


@dataclass
class Outcome:
    """What came of a submission's steps, by their place in the notebook.

    ``failed`` holds the reason why a step has no result; ``broken`` are the exams that failed by no fault of the
    student's.
    """

    outputs: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    verdicts: dict[int, Message] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)

    def take(self, message: Message) -> None:
        """Notes what a student process reports."""
        if "cell" in message:
            self.outputs[message["cell"]] = message["outputs"]
            self.counts[message["cell"]] = message["count"]
        elif "verdict" in message:
            self.verdicts[message["verdict"]] = message["data"]
        elif "failed" in message:
            self.failed[message["failed"]] = message["reason"]
            if message.get("broken"):
                self.broken.add(message["failed"])


class StoppedError(Exception):
    """A student process ended before its work was done; the message says why, to the student."""

    def __init__(self, reason: str, step: int | None) -> None:
        super().__init__(reason)
        self.step = step


def warm_up() -> None:
    """Starts the imports that student processes share; they go on while other work is done."""
    with _no_main_module():
        forkserver.ensure_running()


def run_submission(steps: Sequence[Step], limits: Limits, devices: tuple[str, ...] | None) -> Outcome:
    """Runs ``steps``, which are in the notebook's order, and examines what they define."""
    outcome = Outcome()
    reason = ""
    for _ in range(ATTEMPTS):
        todo = [step for step in steps if step.place not in outcome.failed and step.place not in outcome.verdicts]
        try:
            _attempt(todo, limits, devices, outcome)
        except StoppedError as stopped:
            reason = str(stopped)
            if stopped.step is None:
                break
            outcome.failed[stopped.step] = reason
        else:
            return outcome
    for step in steps:
        if isinstance(step, ExamStep) and step.place not in outcome.verdicts:
            outcome.failed.setdefault(step.place, reason)
    return outcome


def _attempt(steps: Sequence[Step], limits: Limits, devices: tuple[str, ...] | None, outcome: Outcome) -> None:
    """One student process, from start to end.

    Raises:
        StoppedError: it did not get to the end.
    """
    with tempfile.TemporaryDirectory(prefix="submission-", ignore_cleanup_errors=True) as folder:
        reader, writer = os.pipe()
        ours, theirs = connection.Connection(reader), connection.Connection(writer)
        process = _context.Process(target=student.run, args=(steps, limits, devices, folder, theirs))
        with ours, _no_main_module():
            process.start()
            theirs.close()
            watch = _Watch(process, ours.fileno(), limits)
            try:
                for message in watch.messages():
                    outcome.take(message)
            finally:
                _end(process, watch.family)


class _Watch:
    """Reads a student process's messages while it keeps to its limits."""

    def __init__(self, process: ForkServerProcess, descriptor: int, limits: Limits) -> None:
        self.process, self.descriptor, self.limits = process, descriptor, limits
        self.step: int | None = None
        self.end = time.monotonic() + limits.total_seconds + STARTING_SECONDS
        self.step_end = time.monotonic() + STARTING_SECONDS
        self.bytes_left = 64 * limits.output_bytes
        self.family: list[psutil.Process] = []
        self.family_end = 0.0
        os.set_blocking(descriptor, False)

    def messages(self) -> Iterator[Message]:
        """Everything that the process says until it is done.

        Raises:
            StoppedError: it ended too early, or used too much.
        """
        received = b""
        while True:
            connection.wait([self.descriptor, self.process.sentinel], POLL_SECONDS)
            dead = self.process.exitcode
            chunk = self._read()
            *lines, received = (received + chunk).split(b"\n")
            for line in lines:
                message = self._parsed(line)
                if "done" in message:
                    return
                if "begin" in message:
                    self.step = message["begin"]
                    self.step_end = time.monotonic() + self.limits.step_seconds + GRACE_SECONDS
                yield message
            if dead is not None and not chunk:
                raise self._stopped(_cause_of_death(dead))
            self._check_limits()

    def _read(self) -> bytes:
        try:
            chunk = os.read(self.descriptor, 2**20)
        except BlockingIOError:
            return b""
        self.bytes_left -= len(chunk)
        return chunk

    def _parsed(self, line: bytes) -> Message:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise self._stopped("It wrote into the channel that carries its results.")
        return message

    def _check_limits(self) -> None:
        now = time.monotonic()
        if now > self.step_end:
            raise self._stopped(f"It took longer than {self.limits.step_seconds:g} s and could not be interrupted.")
        if now > self.end:
            raise self._stopped(f"The notebook took longer than {self.limits.total_seconds:g} s.")
        if self.bytes_left < 0:
            raise self._stopped("Its outputs are too large.")
        if now > self.family_end:
            self.family, self.family_end = _family(self.process), now + FAMILY_SECONDS
        if len(self.family) > self.limits.processes:
            raise self._stopped(f"It started more than {self.limits.processes} processes.")
        if sum(_resident(member) for member in self.family) > self.limits.memory_bytes:
            raise self._stopped(f"It used more than {self.limits.memory_bytes / 2**30:.1f} GiB of memory.")

    def _stopped(self, reason: str) -> StoppedError:
        return StoppedError(reason, self.step)


def _cause_of_death(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "It used more processor time than a submission may."
    if code < 0:
        return f"Its process was ended by {signal.Signals(-code).name}."
    return f"It ended its process, with exit code {code}."


def _family(process: ForkServerProcess) -> list[psutil.Process]:
    with suppress(psutil.Error):
        head = psutil.Process(process.pid)
        return [head, *head.children(recursive=True)]
    return []


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _end(process: ForkServerProcess, known: list[psutil.Process]) -> None:
    """Ends the process and all that it has started, as far as that is ``known`` or can still be found."""
    family = {*known, *_family(process)}
    if process.pid is not None:
        # Its group: what it started and then disowned.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with suppress(psutil.Error):
            member.kill()
    process.join()
    process.close()


@contextmanager
def _no_main_module() -> Iterator[None]:
    """A child would import the program's main module again: a tenth of a second each, and none of its business."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
