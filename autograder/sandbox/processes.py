"""Student processes as seen from outside: started, asked, watched, ended."""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import psutil

from autograder.bridge.clock import time_limit
from autograder.bridge.codec import WireError
from autograder.bridge.objects import Objects
from autograder.bridge.peer import Peer, TimeLimit
from autograder.bridge.remote import RemoteAnswer, refer
from autograder.sandbox import bubblewrap
from autograder.sandbox.outputs import checked_outputs
from autograder.sandbox.steps import CellStep, ExamStep, Limits

# A step stops itself when its time is up; this is for one that can't be interrupted.
GRACE_SECONDS = 5.0
STARTING_SECONDS = 120.0
POLL_SECONDS = 0.05
# Finding a process's children means reading the whole process table.
FAMILY_SECONDS = 0.5
# As many for each process that it may start.
THREADS = 16
# What a student's test may make this process allocate, through the answers that it is given to try.
LENDING_BYTES = 2 * 2**30

# What a notebook may show in all, in cells that each keep to the limit.
CELLS_OF_OUTPUT = 20

_CLOSED = "It closed the channel that carries its results."

ISOLATED = "isolated: each submission in namespaces of its own, inside bubblewrap, without network"


class StoppedError(BaseException):
    """A student process ended before its work was done; the message says why, to the student.

    No Exception: an exam takes those for something that the answer raised.
    """


class Zygote:
    """The process that student processes are forked from.

    ``isolation`` says how far they are kept from everything else.
    """

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair()
        self.isolation = ISOLATED
        arguments = ["-m", "autograder.sandbox.inside.zygote", str(theirs.fileno())]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process runs
        try:
            self._start(bubblewrap.command([*arguments, "confined"]), theirs)
        except (FileNotFoundError, ConnectionError) as error:
            self.isolation = f"not isolated: {error}; submissions run in processes of their own, and that is all"
            self.control.close()
            self.control, theirs = socket.socketpair()
            self._start([sys.executable, *arguments[:-1], str(theirs.fileno()), "plain"], theirs)
        self.ready = False

    def _start(self, command: list[str], theirs: socket.socket) -> None:
        """Starts the process, and hears whether it can keep submissions apart."""
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.log,
            pass_fds=[theirs.fileno()],
            env=bubblewrap.environment(),
        )
        theirs.close()
        self.told = self.control.makefile("rb")
        hello = self._heard()
        if hello["problem"] is not None:
            self.close()
            raise ConnectionError(hello["problem"])

    def fork(self, limits: Limits) -> socket.socket:
        """Starts the process of one submission, and gives the socket to it."""
        if not self.ready:
            self.ready = bool(self._heard()["ready"])
            self.head = _head(self.process.pid)
        ours, theirs = socket.socketpair()
        with theirs:
            order = {"start": asdict(limits), "cores": _own_cores()}
            socket.send_fds(self.control, [json.dumps(order).encode()], [theirs.fileno()])
        self._heard()
        return ours

    def end(self) -> int | None:
        """Ends the process of the submission and all that it started; its status, if it had ended by itself."""
        family = self.family() if self.isolation != ISOLATED else []
        self.control.sendall(b'{"end": true}')
        status: int | None = self._heard()["ended"]
        for member in family:
            with suppress(psutil.Error):
                member.kill()
        return status

    def family(self) -> list[psutil.Process]:
        """The processes of the submission that runs."""
        with suppress(psutil.Error):
            return list(self.head.children(recursive=True))[self.isolation == ISOLATED :]
        return []

    def close(self) -> None:
        """Ends it, and every process below it."""
        self.control.close()
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def _heard(self) -> dict[str, Any]:
        line = self.told.readline()
        if not line:
            self.log.seek(0)
            words = self.log.read().decode(errors="replace").strip().splitlines() or ["it does not say why"]
            raise ConnectionError(f"the sandbox does not start: {words[-1]}")
        heard: dict[str, Any] = json.loads(line)
        return heard


def _own_cores() -> list[int] | None:
    """Those that this process is kept on, where the system can tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _head(process: int) -> psutil.Process:
    """The zygote itself, below bubblewrap's own processes."""
    head = psutil.Process(process)
    while head.name().startswith("bwrap"):
        head = head.children()[0]
    return head


_zygotes: list[Zygote] = []


def zygote() -> Zygote:
    """The zygote of this process, started when it is first needed; its imports go on while other work is done."""
    if _zygotes and _zygotes[0].process.poll() is not None:
        _zygotes.pop().close()
    if not _zygotes:
        _zygotes.append(Zygote())
        atexit.register(_zygotes[0].close)
    return _zygotes[0]


class StudentProcess:
    """The process of one submission, from its first cell to its last answer."""

    def __init__(self, limits: Limits, end: float) -> None:
        self.limits, self.end = limits, end
        self.zygote = zygote()
        self.socket = self.zygote.fork(limits)
        self.socket.setblocking(False)
        self.received = bytearray()
        self.room = CELLS_OF_OUTPUT * limits.output_bytes
        self.left = self.allowed = STARTING_SECONDS
        self.family: list[psutil.Process] = []
        self.family_end = self.look = 0.0
        self.ceiling = resource.RLIM_INFINITY
        self.objects = Objects(most=1000)
        lending = {name: self._bounded(getattr(self.objects, name)) for name in ("call", "backward", "construct")}
        self.peer = Peer(self, lending, forget=self.objects.forget, refer=refer, find=_nothing)
        self.peer.seconds_left = lambda: max(self.left - GRACE_SECONDS, 0.01)

    def run(self, step: CellStep) -> tuple[list[dict[str, Any]], int]:
        """Runs a cell; gives its outputs and its number.

        Raises:
            StoppedError: the process had to be ended, or has ended.
        """
        with self._step():
            told = self._told("cell", source=step.source, seconds=self.limits.step_seconds)
            outputs, count, size = checked_outputs(told, min(2 * self.limits.output_bytes, self.room))
            self.room -= size
            return outputs, count

    def note(self, step: ExamStep) -> None:
        """Lets the process keep what the exercise's name stands for at this point."""
        with self._step():
            self._told("note", place=step.place, name=step.exercise)

    @contextmanager
    def answer(self, step: ExamStep) -> Iterator[RemoteAnswer]:
        """What was noted, for the time of an exam.

        Raises:
            StoppedError: the process had to be ended, or has ended.
            TimeLimit: the exam took too long and was interrupted.
        """
        with self._step():
            about = self._told("answer", place=step.place, name=step.exercise)
            self.ceiling = psutil.Process().memory_info().vms + LENDING_BYTES
            try:
                yield RemoteAnswer(self.peer, self.objects, about, self._witness)
            finally:
                self.objects.held.clear()

    def close(self) -> int | None:
        """Ends the process; its status, if it had ended by itself."""
        if self.socket.fileno() < 0:
            return None
        self.socket.close()
        return self.zygote.end()

    def _told(self, service: str, **what: Any) -> Any:
        """What the process gives for something that never fails in a process that was left as it was."""
        try:
            return self.peer.ask(service, **what)
        except WireError:
            raise
        except (Exception, TimeLimit):
            raise StoppedError("It no longer runs as a notebook's process does.") from None

    def _bounded(self, service: Callable[..., Any]) -> Callable[..., Any]:
        """A service for the other side: on its time, and failing, not taking all memory, if asked for too much."""

        def within(**what: Any) -> Any:
            since = time.monotonic()
            try:
                with time_limit(self.left), _memory_limit(self.ceiling):
                    return service(**what)
            finally:
                now = time.monotonic()
                self.left -= now - since
                self._check_limits(now)

        return within

    @contextmanager
    def _step(self) -> Iterator[None]:
        """The time that a step may take, without that of this side, and the reason if the process is lost."""
        self.left = self.allowed = self.limits.step_seconds + GRACE_SECONDS
        try:
            yield
        except WireError:
            raise StoppedError("It wrote into the channel that carries its results.") from None

    def send(self, data: bytes) -> None:
        """Hands over all of ``data``, while the process keeps to its limits."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.socket.send(view) :]
            except BlockingIOError:
                self._wait(for_reading=False)
            except (BrokenPipeError, ConnectionResetError):
                raise self._ended() from None

    def receive(self, size: int) -> bytes:
        """Exactly ``size`` bytes, while the process keeps to its limits."""
        while len(self.received) < size:
            try:
                part = self.socket.recv(max(size - len(self.received), 2**16))
            except BlockingIOError:
                self._wait(for_reading=True)
                continue
            except ConnectionResetError:
                part = b""
            if not part:
                raise self._ended()
            self.received += part
            # What comes in drops, or never ends, needs no waiting for.
            self._check_limits(time.monotonic())
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    def _wait(self, for_reading: bool) -> None:
        """Until the socket is ready, or a limit is passed."""
        ready = False
        while not ready:
            since = time.monotonic()
            ways: tuple[list[Any], list[Any]] = ([self.socket], []) if for_reading else ([], [self.socket])
            ready = any(select.select(*ways, [], POLL_SECONDS))
            now = time.monotonic()
            self.left -= now - since
            self._check_limits(now)

    def _check_limits(self, now: float) -> None:
        if self.left < 0:
            seconds = self.allowed - GRACE_SECONDS
            raise StoppedError(f"It took longer than {seconds:g} s and could not be interrupted.")
        if now > self.end:
            raise StoppedError(f"The notebook took longer than {self.limits.total_seconds:g} s.")
        if now < self.look:
            return
        self.look = now + POLL_SECONDS
        if now > self.family_end:
            self.family, self.family_end = self.zygote.family(), now + FAMILY_SECONDS
            # The kernel's own limit does not hold for everyone that this may run as.
            if sum(map(_threads, self.family)) > THREADS * self.limits.processes:
                raise StoppedError(f"It started more than {THREADS * self.limits.processes} threads.")
        if len(self.family) > self.limits.processes:
            raise StoppedError(f"It started more than {self.limits.processes} processes.")
        if sum(_resident(member) for member in self.family) > self.limits.memory_bytes:
            raise StoppedError(f"It used more than {self.limits.memory_bytes / 2**30:.1f} GiB of memory.")

    def _ended(self) -> StoppedError:
        """Why it is gone."""
        # Its status takes a moment longer than the end of its socket.
        time.sleep(POLL_SECONDS)
        status = self.close()
        return StoppedError(_CLOSED if status is None else _cause_of_death(status))

    def _witness(self, run: Callable[[], Any]) -> tuple[Any, int]:
        """The result of ``run``, and by how many bytes the process grew at most meanwhile; 0 where nothing tells."""
        head = next(iter(self.zygote.family()), None)
        if head is None:
            return run(), 0
        try:
            with open(f"/proc/{head.pid}/clear_refs", "w", encoding="ascii") as file:
                file.write("5")
            before = _peak(head.pid)
        except OSError:
            return run(), 0
        return run(), max(0, _peak(head.pid) - before)


def _cause_of_death(status: int) -> str:
    """What the status of a process that ended by itself says, in a sentence."""
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return "It used more processor time than a submission may."
    if code < 0:
        return f"Its process was ended by {signal.Signals(-code).name}."
    return f"It ended its process, with exit code {code}."


def _peak(process: int) -> int:
    """The most memory that a process has had at once, in bytes, since it was last asked to begin anew."""
    with suppress(OSError), open(f"/proc/{process}/status", encoding="ascii") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")), 0)
    return 0


def _threads(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.num_threads())
    return 0


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _nothing(data: Any, decode: Any) -> Any:
    raise WireError("an object where a value is asked for")


@contextmanager
def _memory_limit(most: int) -> Iterator[None]:
    """Allocations that take this process beyond ``most`` bytes fail in the block, where the system counts them."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    except (OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
