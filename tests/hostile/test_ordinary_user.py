"""What is kept by user ids when root grades a class has to be kept by something else when anybody else does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from autograder.sandbox import processes
from autograder.sandbox.steps import CellStep, Limits
from autograder.sandbox.submission import run_submission

pytestmark = pytest.mark.xdist_group("hostile-even")

LEAVE_NOTES = """
import os

for folder in ("/", "/dev", "/dev/pts", "/dev/shm", "/tmp", "/usr", "/proc/sys/kernel", *os.environ["PATH"].split(":")):
    note = os.path.join(folder, "hostile-mark")
    if os.path.exists(note):
        print("LEAKED", note)
    try:
        open(note, "w").close()
    except OSError:
        continue
try:
    print("LEAKED", open("/proc/1/environ").read())
except OSError:
    print("done")
"""


@pytest.fixture(autouse=True)
def ordinary_user(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The sandbox is set up as for one who is not root: in a user namespace with a single user."""
    monkeypatch.setattr(processes, "_zygotes", [])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    yield
    processes.zygote().close()


def no_exam(*_: Any) -> Any:
    raise AssertionError("there is none")


def test_a_submission_leaves_nothing_for_the_next_one() -> None:
    limits = Limits(step_seconds=10.0)
    for _ in range(2):
        outcome = run_submission([CellStep(0, LEAVE_NOTES)], limits, no_exam)
        assert [output["text"] for output in outcome.outputs[0]] == ["done\n"]
