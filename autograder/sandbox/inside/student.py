"""The process of one submission: runs its cells, then answers for what they defined."""

from __future__ import annotations

import json
import os
import random
import resource
import socket
import sys
from typing import Any

from autograder.bridge.clock import time_limit
from autograder.bridge.peer import Peer, TimeLimit
from autograder.bridge.remote import Services
from autograder.sandbox.inside.confine import NOBODY
from autograder.sandbox.inside.shell import NotebookShell, Outputs, Stream


def main(limits: dict[str, Any], descriptor: int, folder: str) -> None:
    """Does what it is asked over the socket ``descriptor`` until that is closed; works in ``folder``."""
    _set_limits(limits)
    _set_threads()
    _settle(folder)
    notebook = Notebook(limits["output_bytes"])
    services = Services(lambda: peer)

    def answer(place: int, name: str) -> Any:
        return services.describe(notebook.answer(place, name))

    peer = Peer(
        Wire(socket.socket(fileno=descriptor)),
        {**services.all(), "cell": notebook.cell, "note": notebook.note, "answer": answer},
        forget=services.objects.forget,
        refer=lambda value, encode: None,
        find=services.found,
        within=time_limit,
    )
    peer.serve()


class Wire:
    """A socket as the bridge wants it."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.received = bytearray()

    def send(self, data: bytes) -> None:
        """Hands over all of ``data``."""
        self.end.sendall(data)

    def receive(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        while len(self.received) < size:
            part = self.end.recv(max(size - len(self.received), 2**16))
            if not part:
                raise EOFError
            self.received += part
        data = bytes(self.received[:size])
        del self.received[:size]
        return data


class Notebook:
    """A submission's cells, in a shell of their own."""

    def __init__(self, output_bytes: int) -> None:
        self.outputs = Outputs(output_bytes)
        self.shell = NotebookShell.instance()
        self.shell.outputs = self.outputs
        self.noted: dict[int, Any] = {}
        sys.stdout, sys.stderr = Stream(self.outputs, "stdout"), Stream(self.outputs, "stderr")
        _seed_everything()

    def cell(self, source: str, seconds: float) -> dict[str, Any]:
        """Runs a cell; its outputs come as the JSON text that a notebook file holds."""
        self.outputs.start()
        try:
            with time_limit(seconds):
                self.shell.run_cell(source, store_history=True)
        except TimeLimit:
            self.shell.showtraceback(exception_only=True)
        return {"outputs": json.dumps(self.outputs.finished()), "count": self.shell.execution_count - 1}

    def note(self, place: int, name: str) -> None:
        """Keeps what ``name`` stands for at this point."""
        self.noted[place] = self.shell.user_ns.get(name)

    def answer(self, place: int, name: str) -> Any:
        """What was noted at ``place``. An exam cell that was moved to before the answer still finds it."""
        noted = self.noted.get(place)
        return self.shell.user_ns.get(name) if noted is None else noted


def _set_limits(limits: dict[str, Any]) -> None:
    """Those that the kernel keeps, and that hold even if the watching process dies."""
    seconds = int(limits["total_seconds"] * (os.cpu_count() or 1)) + 60
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"], limits["file_bytes"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() == NOBODY:
        # Counted for the user, threads too, and for all submissions that run at once: a last resort.
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"] * 16, limits["processes"] * 16))


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


def _seed_everything() -> None:
    """A rerun of the same notebook draws the same numbers."""
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


def _set_threads() -> None:
    """As many as there are cores for this process; PyTorch counted before it was kept on some of them."""
    if hasattr(os, "sched_getaffinity"):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
