"""What grading found, as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from autograder.bridge.text import readable
from autograder.classroom.marking import not_examined
from autograder.classroom.result import Result
from autograder.classroom.roster import Roster
from autograder.verdict import shown


def class_table(roster: Roster, results: Sequence[Result]) -> Table:
    """One row a student: points by topic, and every exercise that lost points with the misconception behind it."""
    table = Table(show_lines=True)
    table.add_column("student")
    for topic in roster.topics:
        table.add_column(topic, justify="right")
    table.add_column("what went wrong", overflow="fold")
    found = {(result.submission.student, result.submission.topic): result for result in results}
    for student in roster.students:
        own = [found[student, topic] for topic in roster.topics]
        lines = [line for result in own for line in _lines(result)]
        table.add_row(escape(readable(student)), *(_points(result) for result in own), "\n".join(lines))
    return table


def summary(results: Sequence[Result], new: int) -> str:
    """How many there were, and what became of them, in one line."""
    handed_in = [result for result in results if result.handed_in]
    counts = {
        "graded": new,
        "unchanged since": len(handed_in) - new,
        "repaired": sum(bool(result.repairs) for result in handed_in),
        "stopped in a cell or an exam": sum(bool(result.stopped) for result in handed_in),
        "could not be marked": sum(result.needs_attention for result in handed_in),
        "not handed in": len(results) - len(handed_in),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count or what == "graded"]
    return f"{len(handed_in)} submissions: {', '.join(told)}"


def isolation(results: Sequence[Result]) -> str:
    """How far submissions were kept from everything else: the first line of every report."""
    return "\n".join(sorted({result.isolation for result in results if result.isolation})) or "nothing was run"


def misconceptions(results: Sequence[Result]) -> list[tuple[str, str, int]]:
    """Exercise, misconception, how many students: the most frequent first."""
    counts = Counter(found for result in results for found in result.misconceptions.items())
    return [(exercise, name, count) for (exercise, name), count in counts.most_common()]


def misconception_table(results: Sequence[Result], at_least: int = 2) -> Table | Group:
    """The misconceptions that ``at_least`` so many students share: what to talk about in class."""
    shared = [found for found in misconceptions(results) if found[2] >= at_least]
    if not shared:
        return Group()
    table = Table(title="Misconceptions", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("students", justify="right")
    table.add_column("exercise")
    table.add_column("misconception")
    for exercise, name, count in shared:
        table.add_row(str(count), exercise, _words(name))
    return table


def device_line(results: Sequence[Result]) -> str:
    """On which devices answers were examined, and which were not there."""
    examined = (verdict for result in results for verdict in result.verdicts.values() if not_examined(verdict) is None)
    return "devices: " + " · ".join(next((verdict.devices for verdict in examined), ("nothing was examined",)))


def _points(result: Result) -> str:
    if not result.handed_in:
        return "–"
    return f"{shown(result.points)}/{shown(result.max_points)}" if result.verdicts else "not marked"


def _lines(result: Result) -> list[str]:
    topic = result.submission.topic
    if not result.handed_in:
        return [f"[dim]{topic}: nothing handed in[/dim]"]
    lines = [f"[red]{escape(readable(result.problem))}[/red]"] if result.problem else []
    if not result.problem:
        lines += [f"[dim]{topic}: {escape(readable(note))}[/dim]" for note in result.repairs]
        undone = [name for name in result.verdicts if name in result.undone]
        lines += [_loss(name, result) for name in result.verdicts if name not in result.undone]
        lines += [f"[dim]not done: {', '.join(undone)}[/dim]"] if undone else []
    return [line for line in lines if line]


def _loss(name: str, result: Result) -> str:
    verdict = result.verdicts[name]
    if verdict.points >= verdict.max_points:
        return ""
    share = f"{name} {shown(verdict.points)}/{shown(verdict.max_points)}"
    stopped = not_examined(verdict)
    if stopped is not None:
        return f"{share}: [red]{escape(stopped)}[/red]"
    return f"{share}: [bold]{_words(result.misconceptions[name])}[/bold]" if name in result.misconceptions else share


def _words(name: str) -> str:
    """A misconception's name as it is read, and as a narrow column can break it."""
    return name.replace("_", " ")
