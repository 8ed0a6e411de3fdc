"""Marks the course's exercises: ``examine("softmax", softmax)`` gives points and names the misconception."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autograder.engine.examine import examine as examine
    from autograder.engine.examine import mark as mark
    from autograder.verdict import Diagnosis as Diagnosis
    from autograder.verdict import Finding as Finding
    from autograder.verdict import Verdict as Verdict

__all__ = ["Diagnosis", "Finding", "Verdict", "examine", "mark"]


def __getattr__(name: str) -> Any:
    # PyTorch is imported when an exam runs, not to print the command line's help.
    if name in ("examine", "mark"):
        from autograder.engine import examine as engine

        return getattr(engine, name)
    if name in ("Diagnosis", "Finding", "Verdict"):
        from autograder import verdict

        return getattr(verdict, name)
    raise AttributeError(f"module 'autograder' has no attribute {name!r}")
