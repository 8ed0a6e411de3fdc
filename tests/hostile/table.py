"""Prints what every attack gets, as a Markdown table: ``python -m tests.hostile.table [course]``.

``course`` is a folder in which the hostile class has been graded; without it, it is graded first.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue

import nbformat

from autograder.classroom.marking import verdicts_of
from tests.hostile.classroom import FIRST, grade
from tests.hostile.notebooks import TOPIC, Attack, attacks
from tests.hostile.stock import SECONDS, Stock

ABOUT = """\
# What each attack gets

`python -m tests.hostile.table` prints this. Every notebook is the same half-right one, worth {honest:.4g} points here,
with an attack added. Beside it stands what nbgrader {version} gives by itself: its own kernel, the exams' `mark` called
in the student's process, and nothing else of this project. *No mark*: it gave up on the submission, or took longer
than {seconds} s.
"""


def main() -> None:
    """Prints a row an attack, as soon as it is known."""
    course = Path(sys.argv[1]) if len(sys.argv) > 1 else grade(Path(tempfile.mkdtemp()), attacks()).course.root
    honest = _marks(course, FIRST)
    print(ABOUT.format(version=version("nbgrader"), seconds=SECONDS, honest=sum(honest.values())))
    print("| attack | what it tries | stock nbgrader | here | the code deserves |")
    print("|---|---|---|---|---|", flush=True)
    for attack, stock in zip(attacks(), _all_stock(attacks()), strict=True):
        here = sum(_marks(course, attack.student).values())
        why = " ".join(attack.why.split()).replace("|", "\\|")
        print(
            f"| {attack.name} | {why} | {stock} | {here:.4g} | {_deserved(attack, honest)} |",
            flush=True,
        )


def _all_stock(chosen: list[Attack]) -> Iterator[str]:
    """What stock nbgrader gives for each, as many at a time as there are cores."""
    idle = SimpleQueue[Stock]()
    stocks = [Stock() for _ in range(os.cpu_count() or 1)]
    for stock in stocks:
        idle.put(stock)

    def mark(attack: Attack) -> str:
        stock = idle.get()
        try:
            return _stock(stock, attack)
        finally:
            idle.put(stock)

    with ThreadPoolExecutor(len(stocks)) as pool:
        yield from pool.map(mark, chosen)
    for stock in stocks:
        stock.close()


def _marks(course: Path, student: str) -> dict[str, float]:
    graded = course / "autograded" / student / TOPIC / f"{TOPIC}.ipynb"
    verdicts = verdicts_of(nbformat.read(graded, as_version=4))
    return {name: verdict.points for name, verdict in verdicts.items()}


def _stock(stock: Stock, attack: Attack) -> str:
    if attack.harm:
        return f"not run: {attack.harm}"
    points = stock.mark(attack.file)
    return "no mark" if points is None else f"{points:.4g}"


def _deserved(attack: Attack, honest: dict[str, float]) -> str:
    if attack.refused:
        return "0"
    deserved = [attack.marks.get(name, points) for name, points in honest.items()]
    known = sum(float(points) for points in deserved if not isinstance(points, str))
    return f"{known:.4g}" + (" or more" if any(isinstance(points, str) for points in deserved) else "")


if __name__ == "__main__":
    main()
