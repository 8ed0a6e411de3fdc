"""Which misconception an answer holds: the one that does the same things on the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autograder.answer.local import LocalAnswer
from autograder.engine.checks import Plan, Probe
from autograder.engine.exam import Misconception
from autograder.engine.subject import Observation, Subject

# What a probe sees of an answer, and whether it is right.
Look = Callable[[Probe], tuple[Observation, bool]]


@dataclass(frozen=True, eq=False)
class Trial:
    """A probe as it went for one answer."""

    probe: Probe
    seen: Observation
    problem: str | None


def remember(plan: Plan, target: object, trials: list[Trial]) -> None:
    """Keeps what was seen of a misconception, where ``target`` is one: others' diagnoses need not look again."""
    for misconception in plan.exam.misconceptions:
        if misconception.implementation is target:
            for trial in trials:
                plan.known[trial.probe, misconception.name] = trial.seen, trial.problem is None


def diagnose(plan: Plan, trials: list[Trial]) -> Misconception | None:
    """The misconception that explains most of what went wrong, or None if none explains enough of it.

    One that would go wrong where the answer is right is out, however much else it explains.
    """
    telling = [trial for trial in trials if trial.probe.telling]
    failed = [trial for trial in telling if trial.problem is not None]
    passed = [trial for trial in telling if trial.problem is None]
    best: Misconception | None = None
    most = plan.exam.certainty * len(failed) - 1e-9
    for misconception in plan.exam.misconceptions:
        look = _looks_at(plan, misconception)
        explained = _explained(failed, look, most)
        if explained > most and all(right for _, right in (look(trial.probe) for trial in passed)):
            best, most = misconception, explained
    return best


def _looks_at(plan: Plan, misconception: Misconception) -> Look:
    """What a probe sees of the misconception, looked at once for all answers that are examined by one plan."""
    subject = Subject(LocalAnswer(misconception.implementation), plan.exam)

    def look(probe: Probe) -> tuple[Observation, bool]:
        known = plan.known.get((probe, misconception.name))
        if known is None:
            seen = plan.observe(probe, subject)
            known = plan.known[probe, misconception.name] = seen, probe.judge(seen) is None
        return known

    return look


def _explained(failed: list[Trial], look: Look, most: float) -> float:
    """How many of the ``failed`` trials go alike for another; not counted on once they can't be more than ``most``."""
    count = 0.0
    for left, trial in zip(range(len(failed), 0, -1), failed, strict=True):
        if count + left <= most:
            break
        seen, right = look(trial.probe)
        # What is right there explains no failure, however small that is.
        if not right:
            count += trial.probe.alike(trial.seen, seen)
    return count
