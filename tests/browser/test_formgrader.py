"""nbgrader's own pages in a browser, on a course folder that this project graded."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbgrader.api import Gradebook
from playwright.sync_api import Browser, Page

from autograder.classroom.gradebook import Course
from autograder.classroom.grading import Marking, grade_class
from autograder.classroom.result import Result
from autograder.classroom.roster import read_roster
from tests import quick
from tests.inline import Inline
from tests.quick import TOPIC

SECONDS = 120


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Course, dict[str, Result]]:
    root = tmp_path_factory.mktemp("formgrader")
    quick.write_class(root / "class", 3)
    course = Course(root / "course")
    results = grade_class(course, read_roster(root / "class"), Marking(Inline, mark=quick.mark))
    return course, {result.submission.student: result for result, _ in results}


@pytest.fixture(scope="module")
def formgrader(graded: tuple[Course, dict[str, Result]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Jupyter server that was started in the course folder, as the README says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "jupyter", "server", "--no-browser", "--allow-root", f"--ServerApp.port={port}"),
        *("--IdentityProvider.token=", "--ServerApp.password="),
    ]
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {
        "HOME": str(tmp_path_factory.mktemp("home")),
        "PATH": os.pathsep.join((scripts, os.environ["PATH"])),
    }
    server = subprocess.Popen(
        command, cwd=graded[0].root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}/formgrader"
    end = time.monotonic() + SECONDS
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            assert server.poll() is None, "the server does not start"
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.2)
    yield address
    server.terminate()
    server.wait()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    context.set_default_timeout(SECONDS * 1000)
    yield context.new_page()
    context.close()


def test_submissions_are_listed_with_their_scores(
    formgrader: str, graded: tuple[Course, dict[str, Result]], page: Page
) -> None:
    page.goto(f"{formgrader}/manage_submissions/{TOPIC}")
    page.get_by_text("student-002").first.wait_for()
    for student, result in graded[1].items():
        row = page.locator("tr", has_text=student).inner_text()
        # Formgrader rounds to two digits.
        assert f"{round(result.points, 2):g}" in row, row
        assert "graded" in row.lower()


def test_a_submission_shows_the_feedback_and_no_hidden_source(
    formgrader: str, graded: tuple[Course, dict[str, Result]], page: Page
) -> None:
    course, results = graded
    with Gradebook(course.database_url) as book:
        notebook = book.find_submission_notebook(TOPIC, TOPIC, "student-001").id
    page.goto(f"{formgrader}/submissions/{notebook}")
    verdict = results["student-001"].verdicts["softmax"]
    page.get_by_text(f"softmax: {verdict.points:g} of {verdict.max_points:g} points").first.wait_for()
    text = page.content()
    assert "BEGIN HIDDEN" not in text
    assert "autograder.exams" not in text
