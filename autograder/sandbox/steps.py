"""What a student process is asked to do, and how much it may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Limits:
    """How much one submission may use; a step is a cell or an exam."""

    step_seconds: float = 60.0
    total_seconds: float = 900.0
    memory_bytes: int = 4 * 2**30
    processes: int = 64
    output_bytes: int = 2**20
    file_bytes: int = 256 * 2**20


@dataclass(frozen=True)
class CellStep:
    """Run the cell at ``place`` of the notebook."""

    place: int
    source: str


@dataclass(frozen=True)
class ExamStep:
    """Examine what ``exercise`` stands for where the exam cell at ``place`` is."""

    place: int
    exercise: str
    points: float
    seed: int


Step: TypeAlias = CellStep | ExamStep
