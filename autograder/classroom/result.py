"""What became of one submission: plain data that crosses processes and stands in the journal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autograder.classroom.marking import is_broken
from autograder.classroom.roster import Submission
from autograder.verdict import Verdict


@dataclass
class Result:
    """Verdicts, or the reason why there are none.

    ``problem`` is why it could not be marked, ``repairs`` what was put right, ``stopped`` why a cell or an exam of it
    had to be stopped, ``undone`` the exercises whose cells are as they were handed out, ``isolation`` how far it was
    kept from everything else.
    """

    submission: Submission
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    problem: str | None = None
    repairs: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    undone: frozenset[str] = frozenset()
    handed_in: bool = True
    isolation: str = ""

    @property
    def points(self) -> float:
        """The sum over the exercises."""
        return sum(verdict.points for verdict in self.verdicts.values())

    @property
    def max_points(self) -> float:
        """The most that could be had."""
        return sum(verdict.max_points for verdict in self.verdicts.values())

    @property
    def needs_attention(self) -> bool:
        """Whether it could not be marked, or not in full, by no fault of its answers."""
        return self.problem is not None or any(is_broken(verdict) for verdict in self.verdicts.values())

    @property
    def misconceptions(self) -> dict[str, str]:
        """The misconceptions that were recognised, by exercise."""
        return {name: found.diagnosis.name for name, found in self.verdicts.items() if found.diagnosis is not None}

    def to_dict(self) -> dict[str, Any]:
        """Only dicts, lists, strings, numbers and None, for JSON."""
        about = asdict(self) | {"undone": sorted(self.undone)}
        about["submission"] |= {"path": str(self.submission.path), "folder": str(self.submission.folder)}
        return about

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Result:
        """The inverse of ``to_dict``."""
        where = data["submission"]
        return cls(
            Submission(
                where["student"],
                where["topic"],
                Path(where["path"]),
                Path(where["folder"]),
                tuple(where["notes"]),
                where["timestamp"],
            ),
            {name: Verdict.from_dict(verdict) for name, verdict in data["verdicts"].items()},
            data["problem"],
            tuple(data["repairs"]),
            tuple(data["stopped"]),
            frozenset(data["undone"]),
            data["handed_in"],
            data["isolation"],
        )
