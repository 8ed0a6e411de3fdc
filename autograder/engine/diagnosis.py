"""Which misconception an answer holds: the one that does the same things on the same inputs."""

from __future__ import annotations

from dataclasses import dataclass

from autograder.answer.local import LocalAnswer
from autograder.engine.checks import Probe
from autograder.engine.exam import Exam, Misconception
from autograder.engine.subject import Observation, Subject


@dataclass(frozen=True, eq=False)
class Trial:
    """A probe as it went for one answer."""

    probe: Probe
    seen: Observation
    problem: str | None


def diagnose(exam: Exam, trials: list[Trial]) -> Misconception | None:
    """The misconception that explains most of what went wrong, or None if none explains enough of it.

    One that would go wrong where the answer is right is out, however much else it explains.
    """
    telling = [trial for trial in trials if trial.probe.telling]
    failed = [trial for trial in telling if trial.problem is not None]
    passed = [trial for trial in telling if trial.problem is None]
    best: Misconception | None = None
    most = exam.certainty * len(failed) - 1e-9
    for misconception in exam.misconceptions:
        subject = Subject(LocalAnswer(misconception.implementation), exam.outputs, exam.dtype)
        explained = _explained(failed, subject, most)
        if explained > most and not any(trial.probe.judge(trial.probe.observe(subject)) for trial in passed):
            best, most = misconception, explained
    return best


def _explained(failed: list[Trial], subject: Subject, most: float) -> float:
    """How many of the ``failed`` trials ``subject`` fails alike; not counted on once it can't be more than ``most``."""
    count = 0.0
    for left, trial in zip(range(len(failed), 0, -1), failed, strict=True):
        if count + left <= most:
            break
        seen = trial.probe.observe(subject)
        # What is right there explains no failure, however small that is.
        if trial.probe.judge(seen) is not None:
            count += trial.probe.alike(trial.seen, seen)
    return count
