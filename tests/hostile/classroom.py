"""The hostile class: written, graded once, and everything around it looked at before and after."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from autograder.classroom.gradebook import Course
from autograder.classroom.grading import Marking, grade_class
from autograder.classroom.result import Result
from autograder.classroom.roster import read_roster
from autograder.course import course_root
from autograder.sandbox import processes
from autograder.sandbox.steps import Limits
from tests.hostile.notebooks import TOPIC, Attack, json_bytes, ordinary
from tests.inline import Inline

FIRST, LAST = "0-honest", "~-honest"
# Whose folder is a link to the first one's.
LINK = "link"
AGAIN = "-again"
MARK = "hostile-mark"

LIMITS = Limits(step_seconds=3.0, total_seconds=40.0, memory_bytes=1_500_000_000)


@dataclass(frozen=True)
class Graded:
    """What came of the class, and what the world around it looked like."""

    attacks: list[Attack]
    course: Course
    results: dict[str, Result]
    before: dict[str, str]
    after: dict[str, str]
    left: list[str]


def submissions(chosen: Iterable[Attack]) -> dict[str, bytes]:
    """What every student hands in: honest ones first and last, in the order of their names."""
    files = {FIRST: json_bytes(ordinary()), LAST: json_bytes(ordinary())}
    for attack in chosen:
        files[attack.student] = attack.file
        if attack.twice:
            files[attack.student + AGAIN] = attack.file
    return files


def grade(root: Path, chosen: list[Attack]) -> Graded:
    """Grades a class of the ``chosen`` attacks in ``root``."""
    folder = root / "class"
    for student, data in submissions(chosen).items():
        (folder / student).mkdir(parents=True)
        (folder / student / f"{TOPIC}.ipynb").write_bytes(data)
    (folder / LINK).symlink_to(folder / FIRST, target_is_directory=True)
    course = Course(root / "course")
    course.release(TOPIC)
    marking = Marking(Inline, limits=LIMITS, devices=("cpu",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "GRACE_SECONDS", 0.5)
        processes.zygote()
        before = _surroundings(folder, course)
        graded = grade_class(course, read_roster(folder), marking)
        results = {result.submission.student: result for result, _ in graded}
        after = _surroundings(folder, course)
    return Graded(chosen, course, results, before, after, _left())


def _surroundings(folder: Path, course: Course) -> dict[str, str]:
    """A digest of everything that a submission has no business with."""
    root = course_root()
    found = {str(path): _digest(path) for path in _files(folder, course.root / "source", course.root / "release")}
    for part in ("autograder", "solutions", "chapters/exercises", "tests"):
        found |= {str(path): _digest(path) for path in _files(root / part)}
    # Others work on this machine, too: of the folders that all share, what bears the attackers' mark.
    shared = (Path.cwd(), Path.home(), Path(tempfile.gettempdir()), Path("/dev/shm"), course.root)
    found |= {str(path): "" for place in shared if place.is_dir() for path in place.glob(f"*{MARK}*")}
    return found | {f"${name}": value for name, value in os.environ.items()}


def _files(*folders: Path) -> list[Path]:
    paths = (path for folder in folders for path in sorted(folder.rglob("*")))
    return [path for path in paths if path.is_file() and "__pycache__" not in path.parts]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _left() -> list[str]:
    """Processes below this one that belong to no zygote, or to a submission."""
    own = {processes.zygote().process.pid, processes.zygote().head.pid}
    bubblewraps = {each.pid for each in psutil.Process().children(recursive=True) if each.name().startswith("bwrap")}
    return [
        " ".join(each.cmdline())
        for each in psutil.Process(processes.zygote().process.pid).children(recursive=True)
        if each.pid not in own | bubblewraps
    ]
