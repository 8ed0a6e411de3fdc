"""How fast a class is graded: submissions a minute against stock `nbgrader autograde`, on the same class in one run.

python -m tests.benchmarks.grading --students 20 --stock 5
python -m tests.benchmarks.grading --students 1000 --stock 5 --workers 2
python -m tests.benchmarks.grading --students 8 --profile
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import psutil

from autograder.classroom.gradebook import Course
from autograder.classroom.grading import Marking, grade_class
from autograder.classroom.marking import steps_of
from autograder.classroom.roster import read_roster
from autograder.classroom.sample_class import write_class
from autograder.notebooks.translate import source_notebook
from tests.benchmarks.boundary import SEED, here
from tests.inline import Inline

STOCK = """\
c = get_config()
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
c.CourseDirectory.root = %r
"""
PYTHON = sys.executable

# Where the time of the process that examines goes, by what the name of the file or function holds; the first counts.
PARTS = {
    "waiting for the student process": ("select", "_socket"),
    "the bridge: values into messages and back": ("autograder/bridge", "safetensors", "json", "autograder/sandbox"),
    "exams and their engine": ("autograder/engine", "autograder/exams", "autograder/answer"),
    "PyTorch": ("torch",),
    "nbgrader, nbformat and the database": ("nbgrader", "nbformat", "nbconvert", "jsonschema", "sqlalchemy", "sqlite"),
    "all else": ("",),
}


def run(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Seconds that a command took, and the most memory, in MB, that it and all below it had at once."""
    environment = os.environ | {"PATH": os.pathsep.join((str(Path(PYTHON).parent), os.environ["PATH"]))}
    start = time.perf_counter()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([PYTHON, "-m", *arguments], cwd=folder, env=environment, stdout=log, stderr=log)
    peak = [0.0]
    watch = threading.Thread(target=_watch, args=(process, peak))
    watch.start()
    process.wait()
    seconds = time.perf_counter() - start
    watch.join()
    return seconds, peak[0]


def _watch(process: subprocess.Popen[bytes], peak: list[float]) -> None:
    while process.poll() is None:
        total = 0
        try:
            family = psutil.Process(process.pid)
            for member in (family, *family.children(recursive=True)):
                try:
                    # What is shared with others, as PyTorch's code is, counts by its share.
                    total += member.memory_full_info().pss
                except psutil.Error:
                    continue
        except psutil.Error:
            return
        peak[0] = max(peak[0], total / 1e6)
        time.sleep(0.5)


def stock(students: list[Path], topic: str, root: Path) -> float:
    """Seconds that `nbgrader autograde` takes for the submissions, with nbgrader's own settings."""
    (root / "source" / topic).mkdir(parents=True)
    (root / "nbgrader_config.py").write_text(STOCK % str(root), encoding="utf-8")
    nbformat.write(source_notebook(topic), root / "source" / topic / f"{topic}.ipynb")
    run(["nbgrader", "generate_assignment", topic], root)
    for path in students:
        folder = root / "submitted" / path.parent.name / topic
        folder.mkdir(parents=True)
        shutil.copy(path, folder)
    seconds, _ = run(["nbgrader", "autograde", topic], root)
    graded = len(list(root.glob("autograded/*/*/*.ipynb")))
    assert graded == len(students), f"{graded} of {len(students)} were graded; see {root / 'log'}"
    return seconds


def ours(folder: Path, course: Path, workers: int) -> tuple[float, float]:
    """Seconds and peak memory of `autograder grade`."""
    course.mkdir()
    found = run(["autograder", "grade", str(folder), "--course", str(course), "--workers", str(workers)], course)
    graded = len(list(course.glob("autograded/*/*/*.ipynb")))
    assert graded == len(list(folder.glob("*/*.ipynb"))), f"{graded} were graded; see {course / 'log'}"
    return found


def profile(folder: Path, course: Path) -> dict[str, float]:
    """Seconds in each of ``PARTS`` while a class is graded for the second time, so that all is worked out that can be.

    One process marks and writes, and each call of a function costs it as much again: shares count, not seconds.
    """
    into, marking = Course(course), Marking(Inline, devices=("cpu",))
    list(grade_class(into, read_roster(folder), marking))
    with cProfile.Profile() as profiler:
        list(grade_class(into, read_roster(folder), marking, again=True))
    found = dict.fromkeys(PARTS, 0.0)
    for (file, _, function), (_, _, own, *_) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        where = f"{file} {function}"
        found[next(part for part, words in PARTS.items() if any(word in where for word in words))] += own
    return found


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=20)
    parser.add_argument("--stock", type=int, default=5, help="how many of them stock nbgrader grades")
    parser.add_argument("--topic", default="softmax")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--profile", action="store_true", help="only say where the time goes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folder = root / "class"
        list(write_class(folder, asked.students, SEED, [asked.topic]))
        paths = sorted(folder.glob("*/*.ipynb"))
        if asked.profile:
            found = profile(folder, root / "course")
            for part, seconds in found.items():
                print(f"{part}: {seconds / sum(found.values()):.0%}")
            return
        if asked.stock:
            few = paths[: asked.stock]
            seconds = stock(few, asked.topic, root / "stock")
            print(f"stock nbgrader: {len(few)} in {seconds:.1f} s, {60 * len(few) / seconds:.1f} a minute", flush=True)
        start = time.perf_counter()
        few = paths[:20]
        for path in few:
            here(steps_of(nbformat.read(path, as_version=4), lambda exercise: SEED))
        alone = (time.perf_counter() - start) / len(few)
        print(f"cells and exams alone, in one process: {alone:.2f} s a submission", flush=True)
        for workers in asked.workers:
            took, memory = ours(folder, root / f"course-{workers}", workers)
            rate = 60 * len(paths) / took
            line = f"{workers} workers: {len(paths)} in {took:.1f} s, {rate:.1f} a minute, {memory:,.0f} MB at most"
            if workers == 1:
                line += f"; {took / len(paths) - alone:.2f} s a submission more than cells and exams"
            if asked.stock:
                line += f"; {rate / (60 * asked.stock / seconds):.1f} times stock"
            print(line, flush=True)
        last = root / f"course-{asked.workers[-1]}"
        took, _ = run(["autograder", "grade", str(folder), "--course", str(last)], last)
        print(f"the same class again, nothing changed: {took:.1f} s")


if __name__ == "__main__":
    main()
