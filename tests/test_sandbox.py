"""What a submission may do to its process, and what its student and the next one notice of it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from autograder import examine
from autograder.engine.examine import examine_answer
from autograder.sandbox import processes
from autograder.sandbox.steps import CellStep, ExamStep, Limits
from autograder.sandbox.submission import Outcome, run_submission

LIMITS = Limits(step_seconds=2.0, total_seconds=30.0, memory_bytes=10**9, processes=8, output_bytes=10_000)


def no_exam(*_: Any) -> Any:
    raise AssertionError("there is none")


def run(*sources: str, limits: Limits = LIMITS) -> Outcome:
    return run_submission([CellStep(place, source) for place, source in enumerate(sources)], limits, no_exam)


def shown(outcome: Outcome, place: int) -> str:
    """The text of a cell's outputs."""
    pieces = []
    for output in outcome.outputs[place]:
        pieces.append(output.get("text") or output.get("evalue") or output.get("data", {}).get("text/plain", ""))
    return "".join(pieces)


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """The first submission waits for the imports; no test should."""
    run("1")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("print('a'); 6 * 7", "a\n42"),
        ("%timeit -n 1 -r 1 pass", "ns"),
        ("!echo from the shell", "from the shell"),
        ("import asyncio\nawait asyncio.sleep(0)\n'awaited'", "awaited"),
        ("from IPython.display import HTML\ndisplay(HTML('<b>bold</b>'))", "IPython.core.display.HTML"),
        ("import sys\nprint('to stderr', file=sys.stderr)", "to stderr"),
        ("1;", ""),
        ("1 / 0", "division by zero"),
        ("def f(:", "invalid syntax"),
    ],
)
def test_cells_behave_as_in_a_notebook(source: str, text: str) -> None:
    outcome = run(source, "'still here'")
    assert text in shown(outcome, 0)
    assert shown(outcome, 1) == "'still here'"
    assert not outcome.failed


def test_figures_are_kept() -> None:
    outcome = run("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    # The picture is larger than this test's limit; that it was made is enough.
    assert "was left out" in shown(outcome, 0)


def test_endless_loop_costs_its_cell_only() -> None:
    outcome = run("a = 1", "while True: pass", "a")
    assert [output["ename"] for output in outcome.outputs[1]] == ["TimeLimit"]
    assert shown(outcome, 2) == "1"


STUBBORN = "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass"
SWARM = "import subprocess\nfor _ in range(30): subprocess.Popen(['sleep', '60'])\nimport time; time.sleep(20)"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os; os._exit(7)", "exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        (STUBBORN, "longer than 2 s"),
        (SWARM, "more than 8 processes"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "longer than 2 s"),
    ],
)
def test_process_that_is_lost_costs_its_cell_only(source: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    outcome = run("a = 1", source, "a + 1")
    assert reason in outcome.failed[1]
    assert set(outcome.failed) == {1}
    assert shown(outcome, 2) == "2"


def test_memory_bomb_costs_its_cell_only() -> None:
    # The first gigabyte may take a while on a busy machine.
    bomb = "import torch\nhoard = [torch.ones(2**24) for _ in range(1000)]"
    outcome = run("a = 1", bomb, "a + 1", limits=replace(LIMITS, step_seconds=20.0))
    assert "GiB of memory" in outcome.failed[1]
    assert shown(outcome, 2) == "2"


def test_flood_of_output_is_cut() -> None:
    outcome = run("for _ in range(10**6): print('x' * 100)", "'after'")
    assert len(shown(outcome, 0)) < 2 * LIMITS.output_bytes
    assert "was left out" in shown(outcome, 0)
    assert shown(outcome, 1) == "'after'"


def test_output_past_python_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    run("import os\nos.write(1, b'loud'); os.write(2, b'loud'); os.system('echo loud')")
    assert "loud" not in "".join(capfd.readouterr())


def test_lies_on_the_wire_end_the_process() -> None:
    forgery = (
        "import gc\n"
        "from autograder.bridge.peer import Peer\n"
        "peer = next(each for each in gc.get_objects() if type(each) is Peer)\n"
        "peer.channel.send(bytes(100))"
    )
    outcome = run("1", forgery, "'after'")
    assert "channel" in outcome.failed[1]
    assert shown(outcome, 2) == "'after'"


DAEMON = """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execlp('sleep', 'sleep', '{}')
    os._exit(0)
"""


@pytest.mark.parametrize(
    "source", ["import subprocess\nsubprocess.Popen(['sleep', '{}'], start_new_session=True)", DAEMON, "!sleep {} &"]
)
def test_nothing_is_left_running(source: str) -> None:
    name = str(61 + random.random())
    run(source.format(name), "1")
    assert not [process for process in psutil.process_iter(["cmdline"]) if name in (process.info["cmdline"] or ())]


def test_submissions_do_not_see_each_other() -> None:
    run("import torch, pathlib\ntorch.softmax = None\npathlib.Path('here').write_text('x')\nshared = 1")
    outcome = run("import torch, os\ntorch.softmax is not None, os.listdir(), 'shared' in globals()")
    assert shown(outcome, 0) == "(True, [], False)"


@pytest.fixture
def without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine that has none."""
    monkeypatch.setattr(processes, "_zygotes", [])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    yield
    processes.zygote().close()


def test_without_bubblewrap_it_is_said_and_limits_hold(without_bubblewrap: None) -> None:
    first = processes.zygote().isolation
    assert first.startswith("not isolated: bubblewrap (bwrap) is not installed")
    spend = "import numpy as np\nkept = np.ones(3 * 10**8)"
    outcome = run("6 * 7", "while True: pass", spend, "import os\nos._exit(3)", "'still here'")
    assert shown(outcome, 0) == "42"
    assert "longer than 2 s" in shown(outcome, 1) + str(outcome.failed.get(1))
    assert "GiB of memory" in outcome.failed[2]
    assert "exit code 3" in outcome.failed[3]
    assert shown(outcome, 4) == "'still here'"
    sleeper = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n1"
    assert shown(run(sleeper), 0) == "1"
    left = psutil.Process(processes.zygote().process.pid).children(recursive=True)
    assert not [each for each in left if "time.sleep(1000)" in " ".join(each.cmdline())]


def test_without_bubblewrap_an_exam_says_the_same(without_bubblewrap: None) -> None:
    source = "import torch\ndef softmax(x, dim=-1):\n    return torch.exp(x) / torch.exp(x).sum(dim, keepdim=True)"
    outcome = run_submission(
        [CellStep(0, source), ExamStep(1, "softmax", 5.0, 3)],
        replace(LIMITS, step_seconds=30.0, total_seconds=120.0),
        lambda step, answer: examine_answer(step.exercise, answer, seed=step.seed, points=step.points),
    )
    there = outcome.verdicts[1]
    assert there.diagnosis is not None
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    here = examine("softmax", namespace["softmax"], seed=3)
    assert (there.points, there.diagnosis) == (here.points, here.diagnosis)
