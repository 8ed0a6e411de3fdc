"""The command line. Torch and nbgrader are imported when a command needs them: ``--help`` answers at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from autograder.course import CourseError, course_root, topics
from autograder.verdict import shown

if TYPE_CHECKING:
    from autograder.sandbox.steps import Limits

Item = TypeVar("Item")

BAD_INPUT, NOT_ALL_WELL, INTERRUPTED = 2, 1, 130
# A larger class is not read on a terminal.
MOST_ROWS = 60

app = typer.Typer(
    help="Attention, from scratch: build the notebooks, check your own, grade a class.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out, err = Console(), Console(stderr=True)

Device = Annotated[
    list[str] | None,
    typer.Option(help="Where to examine: cpu, cuda or mps; may be given twice. Default: every one that is there."),
]
Seconds = Annotated[float, typer.Option(help="The most time that a cell or an exam may take.", min=0.1)]
CourseFolder = Annotated[Path | None, typer.Option("--course", help="nbgrader's folder. Default: build/course.")]
Megabytes = Annotated[int, typer.Option(help="The most memory, in MB, that a notebook may use.", min=256)]


def _cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@app.command()
def build() -> None:
    """Make the students' notebooks from the solutions."""
    with _one_sentence():
        from autograder.notebooks import build as builder

        for topic in topics():
            changed = builder.build(topic)
            out.print(f"chapters/exercises/{topic}.ipynb: {'written' if changed else 'up to date'}", highlight=False)


@app.command()
def check(
    notebook: Annotated[Path, typer.Argument(help="Your notebook.")],
    exercise: Annotated[str | None, typer.Option(help="Only this exercise.")] = None,
    seed: Annotated[int | None, typer.Option(help="Replay a run; by default the inputs are new each time.")] = None,
    device: Device = None,
    seconds: Seconds = 60.0,
    memory: Megabytes = 4096,
) -> None:
    """Mark your own notebook, and say what is wrong. Exits with 0 if everything is right, with 1 if not."""
    with _one_sentence():
        from autograder.classroom.checking import check_notebook
        from autograder.sandbox.processes import zygote

        # The student processes' imports and ours take seconds each; they run side by side.
        isolation = zygote().isolation
        verdicts = check_notebook(notebook, exercise, seed, _limits(seconds, memory), _devices(device))
        out.print(isolation, highlight=False, soft_wrap=True)
        for verdict in verdicts:
            out.print(str(verdict), highlight=False, markup=False, soft_wrap=True)
            out.print()
        points, most = sum(v.points for v in verdicts), sum(v.max_points for v in verdicts)
        out.print(f"[bold]{shown(points)} of {shown(most)} points[/bold]", highlight=False)
        if points < most:
            raise typer.Exit(NOT_ALL_WELL)


@app.command()
def grade(
    folder: Annotated[Path, typer.Argument(help="Holds <student>/<topic>.ipynb.")],
    course: CourseFolder = None,
    topic: Annotated[str | None, typer.Option(help="Only this topic.")] = None,
    student: Annotated[str | None, typer.Option(help="Only this student, whether anything has changed or not.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Grade what has not changed as well.")] = False,
    workers: Annotated[int, typer.Option(help="How many processes mark at the same time.", min=1)] = _cores(),
    device: Device = None,
    seconds: Seconds = 60.0,
    memory: Megabytes = 4096,
) -> None:
    """Grade a class into nbgrader's gradebook; started again, it goes on where it was. Exits with 1 if a submission
    could not be marked.
    """
    with _one_sentence():
        from autograder.classroom.roster import read_roster

        roster = read_roster(folder, topic, student)
        from autograder.classroom import report
        from autograder.classroom.gradebook import Course
        from autograder.classroom.grading import Marking, grade_class
        from autograder.classroom.work import worker

        into = Course(_course(course))
        marking = Marking(worker, workers, _limits(seconds, memory), _devices(device))
        graded = list(
            _progress(
                grade_class(into, roster, marking, again or student is not None), len(roster.submissions), "grading"
            )
        )
        results = [result for result, _ in graded]
        out.print(report.isolation(results), highlight=False, soft_wrap=True)
        if len(roster.students) <= MOST_ROWS:
            out.print(report.class_table(roster, results))
        out.print(report.misconception_table(results))
        for path in roster.ignored:
            out.print(f"Left out, as its name is no topic's: {path}", highlight=False, markup=False)
        out.print(report.device_line(results), highlight=False)
        out.print(report.summary(results, sum(new for _, new in graded)), highlight=False, soft_wrap=True)
        out.print(f"gradebook: {into.database}", highlight=False, soft_wrap=True)
        out.print(f"feedback in the notebooks: {into.root / 'autograded'}", highlight=False, soft_wrap=True)
        look = f"cd {into.root} && jupyter lab, then http://localhost:8888/formgrader"
        out.print(f"to look at it in a browser: {look}", highlight=False, soft_wrap=True)
        if any(result.needs_attention for result in results):
            raise typer.Exit(NOT_ALL_WELL)


@app.command()
def report(
    course: CourseFolder = None,
    to: Annotated[Path | None, typer.Option(help="Where marks.csv and marks.json go. Default: the folder.")] = None,
) -> None:
    """Write the marks as CSV and JSON, and print the class's misconceptions, the most common first."""
    with _one_sentence():
        from autograder.classroom import report as tables
        from autograder.classroom.gradebook import Course
        from autograder.classroom.journal import Journal
        from autograder.classroom.marks import marks, write_csv, write_json

        place = _course(course)
        if not place.is_dir():
            raise CourseError(f"There is no folder {place}: grade a class first.")
        of = Course(place)
        found, folder = marks(of), to or of.root
        folder.mkdir(parents=True, exist_ok=True)
        results = [entry.result for entry in Journal(of.journal).entries.values()]
        write_csv(found, folder / "marks.csv")
        write_json(found, results, folder / "marks.json")
        out.print(tables.isolation(results), highlight=False, soft_wrap=True)
        out.print(tables.misconception_table(results, at_least=1))
        out.print(
            f"marks of {len(found)} students: {folder / 'marks.csv'} and marks.json", highlight=False, soft_wrap=True
        )


@app.command()
def sample_class(
    folder: Annotated[Path, typer.Argument(help="A new folder for the class.")],
    students: Annotated[int, typer.Option(help="How many.", min=1)] = 12,
    seed: Annotated[int, typer.Option(help="The same seed makes the same class.")] = 0,
    topic: Annotated[str | None, typer.Option(help="Only this topic.")] = None,
) -> None:
    """Write a class with right and wrong answers in a known mix, listed in its mix.json."""
    with _one_sentence():
        from autograder.classroom.roster import topics_or_one
        from autograder.classroom.sample_class import write_class

        for _ in _progress(write_class(folder, students, seed, topics_or_one(topic)), students, "writing"):
            pass
        out.print(f"{students} students in {folder}; who holds what is in {folder / 'mix.json'}", highlight=False)


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """What a person can mend is told in one sentence, without a traceback."""
    try:
        yield
    except CourseError as error:
        err.print("[bold red]Error:[/bold red]", escape(str(error)), highlight=False, soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        for worker in multiprocessing.active_children():
            worker.kill()
        err.print("Stopped. What is done stays done: the same command goes on from here.", highlight=False)
        raise typer.Exit(INTERRUPTED) from None


def _limits(seconds: float, megabytes: int) -> Limits:
    from autograder.sandbox.steps import Limits

    return Limits(step_seconds=seconds, memory_bytes=megabytes * 10**6)


def _devices(names: list[str] | None) -> tuple[str, ...] | None:
    """The devices to examine on, all of them there.

    Raises:
        CourseError: one is not.
    """
    if not names:
        return None
    from autograder.engine.devices import choose

    return choose(tuple(names))


def _course(folder: Path | None) -> Path:
    return folder or course_root() / "build" / "course"


def _progress(items: Iterator[Item], total: int, doing: str) -> Iterator[Item]:
    """The items as they come, with a bar that tells the rate and the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(doing, total=total, rate="")
        for item in items:
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            progress.update(task, advance=1, rate=f"{60 * speed:.0f} a minute" if speed else "")
            yield item
