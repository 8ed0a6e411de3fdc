"""Has imported what student code needs, does nothing else, and forks a process for each submission.

A fork after imports is safe; after any tensor operator it may hang.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
import traceback
from typing import Any

from autograder.sandbox.inside import confine

STATUS = struct.Struct("i")


def main(descriptor: int, confined: bool) -> None:
    """Forks and ends processes as it is told over the socket ``descriptor``, until that is closed.

    ``{"start": limits, "cores": [0]}`` comes with the socket of the new process, which is kept on these cores (None:
    anywhere); ``{"end": true}`` ends it, and all that it started.
    """
    control = socket.socket(fileno=descriptor)
    _say(control, {"confined": confined, "problem": _trial() if confined else None})
    _import()
    _say(control, {"ready": True})
    child: Child | None = None
    while True:
        text, descriptors, _, _ = socket.recv_fds(control, 2**16, 1)
        if not text:
            break
        order = json.loads(text)
        if "start" in order:
            if order["cores"] is not None:
                os.sched_setaffinity(0, order["cores"])  # a child inherits it
            child = Child(order["start"], descriptors[0], control, confined)
            os.close(descriptors[0])
            _say(control, {"started": True})
        elif child is not None:
            _say(control, {"ended": child.end()})
            child = None
    if child is not None:
        child.end()


class Child:
    """The process of one submission."""

    def __init__(self, limits: dict[str, Any], descriptor: int, control: socket.socket, confined: bool) -> None:
        self.confined = confined
        self.folder = None if confined else tempfile.mkdtemp(prefix="submission-")
        self.status, status = os.pipe()
        self.process = confine.fork_with_own_process_ids() if confined else os.fork()
        if self.process == 0:
            control.close()
            os.close(self.status)
            _unless_it_fails(
                lambda: _first(limits, descriptor, status) if confined else self._plain(limits, descriptor)
            )
        os.close(status)

    def end(self) -> int | None:
        """Ends it, and gives how it had ended before: the status that ``wait`` knows, None if it had not."""
        ended, status = os.waitpid(self.process, os.WNOHANG)
        if not ended:
            os.kill(self.process, signal.SIGKILL) if self.confined else _kill_group(self.process)
            os.waitpid(self.process, 0)
        elif not self.confined:
            _kill_group(self.process)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        told = os.read(self.status, STATUS.size)
        os.close(self.status)
        if self.confined:
            return int(STATUS.unpack(told)[0]) if len(told) == STATUS.size else None
        return status if ended else None

    def _plain(self, limits: dict[str, Any], descriptor: int) -> None:
        from autograder.sandbox.inside import student

        assert self.folder is not None
        os.setsid()
        confine.first_to_go()
        student.main(limits, descriptor, self.folder)


def _first(limits: dict[str, Any], descriptor: int, status: int) -> None:
    """The first process of a submission's namespace: takes in what the others leave, and ends with the student's."""
    confine.own_world(limits["file_bytes"])
    student = os.fork()
    if student == 0:
        os.close(status)
        _unless_it_fails(lambda: _student(limits, descriptor))
    os.close(descriptor)
    while True:
        ended, code = os.wait()
        if ended == student:
            os.write(status, STATUS.pack(code))
            return


def _student(limits: dict[str, Any], descriptor: int) -> None:
    from autograder.sandbox.inside import student

    os.setsid()
    confine.first_to_go()
    confine.give_up_rights()
    student.main(limits, descriptor, "/tmp")  # its own


def _trial() -> str | None:
    """Why a submission can't be confined here, or None if it can."""
    reader, writer = os.pipe()
    try:
        process = confine.fork_with_own_process_ids()
    except OSError as error:
        return str(error)
    if process == 0:
        _unless_it_fails(lambda: _try_all(writer))
    os.close(writer)
    os.waitpid(process, 0)
    with os.fdopen(reader) as answer:
        return answer.read() or None


def _try_all(writer: int) -> None:
    try:
        confine.own_world(2**20)
        confine.give_up_rights()
        for folder in filter(os.path.isdir, sys.path):
            os.listdir(folder)
    except OSError as error:
        os.write(writer, str(error).encode())


def _unless_it_fails(run: Any) -> None:
    """Runs what a forked process is for; it never gets back into its parent's code."""
    code = 1
    try:
        run()
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def _kill_group(process: int) -> None:
    try:
        os.killpg(process, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _say(control: socket.socket, what: dict[str, Any]) -> None:
    control.sendall(json.dumps(what).encode() + b"\n")


def _import() -> None:
    import IPython.core.interactiveshell  # noqa: F401
    import matplotlib
    import matplotlib.pyplot
    import matplotlib_inline.backend_inline  # noqa: F401
    import numpy.random  # noqa: F401
    import torch

    # PyTorch imports it by itself at the first gradcheck, in over a second.
    import torch._dynamo  # noqa: F401

    import autograder.bridge.remote
    import autograder.sandbox.inside.shell
    import autograder.sandbox.inside.student

    matplotlib.use("Agg")
    # A shell takes longer to make than a process.
    autograder.sandbox.inside.shell.NotebookShell.instance()
    # What is there stays there. A child that looked through it for garbage would copy every page that it lies on.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "confined")
