"""Which submissions a folder holds; none of them is opened here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from autograder.course import CourseError, topics


@dataclass(frozen=True)
class Submission:
    """One student's file for one topic; ``path`` may not exist."""

    student: str
    topic: str
    path: Path


@dataclass(frozen=True)
class Roster:
    """What a folder of submissions holds. ``ignored`` are notebooks whose names are no topic's."""

    students: tuple[str, ...]
    topics: tuple[str, ...]
    submissions: tuple[Submission, ...]
    ignored: tuple[Path, ...]


def read_roster(folder: Path, topic: str | None = None) -> Roster:
    """The submissions ``folder/<student>/<topic>.ipynb``, of one topic or of all that somebody handed in.

    Raises:
        CourseError: the folder, the students, the submissions or the topic do not exist.
    """
    if not folder.is_dir():
        raise CourseError(f"There is no folder {folder}.")
    wanted = topics_or_one(topic)
    students = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not students:
        raise CourseError(f"{folder} holds no students: it should have a folder for each, with their notebooks in it.")
    handed_in = tuple(name for name in wanted if any((folder / who / f"{name}.ipynb").exists() for who in students))
    if not handed_in:
        names = " or ".join(f"{name}.ipynb" for name in wanted)
        raise CourseError(f"No student in {folder} has handed in {names}.")
    return Roster(
        tuple(students),
        handed_in,
        tuple(Submission(who, name, folder / who / f"{name}.ipynb") for who in students for name in handed_in),
        tuple(path for who in students for path in sorted((folder / who).glob("*.ipynb")) if path.stem not in topics()),
    )


def topics_or_one(topic: str | None) -> tuple[str, ...]:
    """``topic`` alone, or every topic where it is None.

    Raises:
        CourseError: there is no such topic; the sentence suggests the nearest name.
    """
    known = topics()
    if topic is None:
        return known
    if topic not in known:
        close = difflib.get_close_matches(topic, known, n=1)
        rest = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(known)}."
        raise CourseError(f"There is no topic called {topic!r}. {rest}")
    return (topic,)
