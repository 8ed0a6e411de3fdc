"""What has been graded, and with what: the class goes on from here after any interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder.classroom.result import Result


@dataclass(frozen=True)
class Entry:
    """A result that stands in the gradebook.

    ``key`` is a digest of all that its marks depend on, ``late`` of what its lateness depends on.
    """

    key: str
    late: str
    result: Result


class Journal:
    """One line of JSON for each submission that was graded; of two for the same one the last counts.

    A line is written when the gradebook holds the marks. If the process is killed between the two, the submission is
    graded once more, with the same seeds and so to the same marks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[tuple[str, str], Entry] = {}
        for about in _lines(path):
            entry = Entry(about["key"], about["late"], Result.from_dict(about["result"]))
            self.entries[_name(entry)] = entry

    def add(self, entry: Entry) -> None:
        """Writes ``entry`` so that it is there whatever happens next."""
        about = {"key": entry.key, "late": entry.late, "result": entry.result.to_dict()}
        with self.path.open("ab") as file:
            # A line of which a crash left a part must not swallow this one.
            torn = file.tell() > 0 and not _ends_a_line(self.path)
            file.write(b"\n" * torn + json.dumps(about).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries[_name(entry)] = entry


def _name(entry: Entry) -> tuple[str, str]:
    return entry.result.submission.student, entry.result.submission.topic


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that are whole."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                about = json.loads(line)
            except ValueError:
                continue
            if isinstance(about, dict) and {"key", "late", "result"} <= set(about):
                yield about
