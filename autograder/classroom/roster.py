"""Which submissions a folder holds; none of the notebooks is opened here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from autograder.classroom.intake import readable
from autograder.course import CourseError, topics

# nbgrader's own, beside a notebook: when it was handed in.
TIMESTAMP = "timestamp.txt"
MOST_OF_A_TIME = 100  # bytes


@dataclass(frozen=True)
class Submission:
    """One student's file for one topic, below the class's ``folder``; ``path`` may not exist.

    ``timestamp`` is when it was handed in, as nbgrader writes it; ``notes`` say how the file was chosen where that was
    not clear, and whether its timestamp means nothing.
    """

    student: str
    topic: str
    path: Path
    folder: Path
    notes: tuple[str, ...] = ()
    timestamp: str | None = None

    @property
    def handed_in(self) -> bool:
        """Whether there is a file, of whatever kind."""
        return self.path.exists() or self.path.is_symlink()


@dataclass(frozen=True)
class Roster:
    """What a folder of submissions holds. ``ignored`` are the paths of notebooks whose names are no topic's."""

    students: tuple[str, ...]
    topics: tuple[str, ...]
    submissions: tuple[Submission, ...]
    ignored: tuple[str, ...]


def read_roster(folder: Path, topic: str | None = None, student: str | None = None) -> Roster:
    """The submissions ``folder/<student>/<topic>.ipynb``, of one topic or of all that somebody handed in.

    nbgrader's own order, ``folder/<student>/<topic>/<topic>.ipynb``, is read as well. A file whose name only contains a
    topic's, as ``softmax (1).ipynb``, is taken where there is none that is called so.

    Raises:
        CourseError: the folder, the students, the submissions, the topic or the student do not exist.
    """
    if not folder.is_dir():
        raise CourseError(f"There is no folder {folder}.")
    wanted = topics_or_one(topic)
    folders = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    students = {readable(path.name): path for path in sorted(folders)}
    if not students:
        raise CourseError(f"{folder} holds no students: it should have a folder for each, with their notebooks in it.")
    if student is not None and student not in students:
        raise CourseError(f"There is no student called {student!r} in {folder}. {_nearest(student, students)}".rstrip())
    chosen = tuple(students) if student is None else (student,)
    found = {who: _notebooks(students[who]) for who in chosen}
    handed_in = tuple(name for name in wanted if any(name in found[who] for who in chosen))
    if not handed_in:
        names = " or ".join(f"{name}.ipynb" for name in wanted)
        raise CourseError(f"No student in {folder} has handed in {names}.")
    return Roster(
        chosen,
        handed_in,
        tuple(_submission(students[who], who, name, found[who].get(name, [])) for who in chosen for name in handed_in),
        tuple(readable(str(path)) for who in chosen for path in found[who].get("", [])),
    )


def _notebooks(folder: Path) -> dict[str, list[Path]]:
    """A student's notebooks by topic, the ones with no topic's name under the empty one; the one that counts first."""
    found: dict[str, list[Path]] = {}
    for path in (*folder.glob("*.ipynb"), *folder.glob("*/*.ipynb")):
        if ".ipynb_checkpoints" not in path.parts:
            found.setdefault(_topic_in(path.stem), []).append(path)
    return {topic: sorted(paths, key=lambda path: _rank(path, topic)) for topic, paths in found.items()}


def _topic_in(stem: str) -> str:
    """The topic that a file's name holds, the longest if several do; none if none does."""
    plain = re.sub(r"[\W_]+", "_", stem.casefold())
    return max((topic for topic in topics() if topic in plain), key=len, default="")


def _rank(path: Path, topic: str) -> tuple[bool, int, float, str]:
    """The file of the topic's name comes first, then one less deep in folders, then the newest."""
    age = path.lstat().st_mtime
    return path.stem != topic, len(path.parts), -age, path.name


def _submission(own: Path, student: str, topic: str, paths: list[Path]) -> Submission:
    folder = own.parent
    if not paths:
        return Submission(student, topic, own / f"{topic}.ipynb", folder)
    first, *others = paths
    notes = [f"the file {readable(first.name)} was taken for {topic}.ipynb"] if first.stem != topic else []
    for other in others:
        notes.append(readable(f"{other.name} was handed in as well; {first.name} counts"))
    timestamp, problem = _timestamp(first.parent / TIMESTAMP)
    return Submission(student, topic, first, folder, (*notes, *problem), timestamp)


def _timestamp(path: Path) -> tuple[str | None, tuple[str, ...]]:
    """What a file beside the notebooks says of when they were handed in, and what is wrong with it."""
    if path.is_symlink() or not path.is_file():
        return None, ()
    # Imported here: it brings nbgrader along, which an empty class does not need.
    from nbgrader.utils import parse_utc

    try:
        with path.open("rb") as file:
            text = file.read(MOST_OF_A_TIME).decode().strip()
        parse_utc(text)
    except (OSError, ValueError, OverflowError, TypeError, AttributeError):
        return None, (f"{path.name} says no time that can be read; the notebook counts as in time",)
    return text, ()


def topics_or_one(topic: str | None) -> tuple[str, ...]:
    """``topic`` alone, or every topic where it is None.

    Raises:
        CourseError: there is no such topic; the sentence suggests the nearest name.
    """
    known = topics()
    if topic is None:
        return known
    if topic not in known:
        raise CourseError(f"There is no topic called {topic!r}. {_nearest(topic, known) or _all(known)}")
    return (topic,)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def _all(known: Iterable[str]) -> str:
    return f"There are {', '.join(known)}."
