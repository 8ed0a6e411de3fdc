"""What an exam found out: plain data that prints, travels as JSON and never holds a tensor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


def shown(points: float) -> str:
    """Points as they are read, with two decimals at most; marks are kept as they are."""
    return f"{round(points, 2):g}"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    ``points`` of ``max_points`` were earned; a check worth 0 is advice. ``message`` is empty when the check passed
    and has nothing to say.
    """

    name: str
    passed: bool
    points: float
    max_points: float
    message: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The misconception whose behaviour matches the answer's: its name, a hint, and where it was seen in public."""

    name: str
    hint: str
    source: str | None = None


@dataclass(frozen=True)
class Verdict:
    """All that is known about one answer to one exercise.

    ``seed`` replays the run; ``devices`` has one line a device, those that are not present included.
    """

    exercise: str
    points: float
    max_points: float
    findings: tuple[Finding, ...]
    diagnosis: Diagnosis | None
    seed: int
    devices: tuple[str, ...]
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether no graded check failed."""
        return all(finding.passed for finding in self.findings if finding.max_points > 0)

    def to_dict(self) -> dict[str, Any]:
        """Only dicts, lists, strings, numbers and None, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Verdict:
        """The inverse of ``to_dict``."""
        diagnosis = data["diagnosis"]
        return cls(
            exercise=data["exercise"],
            points=data["points"],
            max_points=data["max_points"],
            findings=tuple(Finding(**finding) for finding in data["findings"]),
            diagnosis=None if diagnosis is None else Diagnosis(**diagnosis),
            seed=data["seed"],
            devices=tuple(data["devices"]),
            note=data["note"],
        )

    def __str__(self) -> str:
        """The feedback as the student reads it."""
        lines = [f"{self.exercise}: {shown(self.points)} of {shown(self.max_points)} points"]
        if self.note:
            lines.append(f"  {self.note}")
        if self.diagnosis is not None:
            lines.append(f"  What seems to have happened: {self.diagnosis.hint}")
        for finding in self.findings:
            # An answer that was not examined has no messages, and advice that is followed says nothing.
            if not finding.message and not (finding.passed and finding.max_points):
                continue
            sign = "✓" if finding.passed else "✗"
            worth = f"{shown(finding.points)}/{shown(finding.max_points)}" if finding.max_points else "advice"
            lines.append(f"  {sign} {finding.name} ({worth})")
            lines.extend(f"      {line}" for line in finding.message.splitlines())
        lines.append(f"  seed {self.seed} · {' · '.join(self.devices)}")
        return "\n".join(lines)
