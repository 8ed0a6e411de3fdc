"""The same submissions under stock nbgrader: its own kernel, exam cells that call ``mark`` in the student's process.

Only what does no harm to the machine is run, and that in a throw-away sandbox, as a net below it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbgrader.api import Gradebook

from autograder.course import course_root
from autograder.notebooks.translate import source_notebook
from tests.hostile.notebooks import TOPIC

SECONDS = 90
CONFIG = """\
c = get_config()
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
c.ExecutePreprocessor.timeout = 15
c.CourseDirectory.root = %r
"""
STUDENT = "student"


class Stock:
    """A course folder of nbgrader's, without any setting of this project."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="stock-"))
        (self.root / "home").mkdir()
        (self.root / "nbgrader_config.py").write_text(CONFIG % str(self.root), encoding="utf-8")
        source = self.root / "source" / TOPIC / f"{TOPIC}.ipynb"
        source.parent.mkdir(parents=True)
        nbformat.write(source_notebook(TOPIC), source)
        self._run("generate_assignment", TOPIC)
        self.database = (self.root / "gradebook.db").read_bytes()

    def mark(self, file: bytes) -> float | None:
        """The points for a submission; None if nbgrader gives up on it, and with it on the class."""
        (self.root / "gradebook.db").write_bytes(self.database)
        for name in ("submitted", "autograded"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        submitted = self.root / "submitted" / STUDENT / TOPIC / f"{TOPIC}.ipynb"
        submitted.parent.mkdir(parents=True)
        submitted.write_bytes(file)
        if not self._run("autograde", TOPIC):
            return None
        with Gradebook(f"sqlite:///{self.root / 'gradebook.db'}") as book:
            return float(book.find_submission(TOPIC, STUDENT).score)

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _run(self, *arguments: str) -> bool:
        """Whether nbgrader's command succeeds."""
        course = str(course_root())
        scripts = str(Path(sys.executable).parent)
        command = [
            *("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
            *("--ro-bind", course, course, "--bind", str(self.root), str(self.root), "--chdir", str(self.root)),
            *("--unshare-all", "--die-with-parent", "--new-session", "--setenv", "HOME", str(self.root / "home")),
            *("--setenv", "PYTHONPATH", course, "--setenv", "PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}"),
            *("prlimit", "--as=12000000000", "--nproc=4000", "--fsize=1000000000"),
            *(sys.executable, "-m", "nbgrader", *arguments),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0
