"""nbgrader's folder for a course: its settings, the release of a topic, the grading of one submission.

The folder holds nbgrader's ``source``, ``release``, ``submitted`` and ``autograded`` and its ``gradebook.db``. Its
``nbgrader_config.py`` asks ``configure`` below for the settings, so that ``nbgrader autograde`` and the formgrader of a
Jupyter server started there work with the same ones.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import nbformat
import nbgrader
from alembic.script import ScriptDirectory
from nbformat import NotebookNode
from nbformat.v4 import new_notebook
from nbgrader.api import Gradebook
from nbgrader.converters import GenerateAssignment
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import AssignLatePenalties, SaveAutoGrades
from sqlalchemy.exc import SAWarning, SQLAlchemyError
from traitlets.config import Config

from autograder.classroom.roster import TIMESTAMP
from autograder.classroom.rules import read_rules
from autograder.course import CourseError
from autograder.notebooks.translate import source_notebook

CONFIG_FILE = '''\
"""nbgrader's settings for this folder; they are kept in autograder/classroom/gradebook.py."""

from pathlib import Path

from autograder.classroom.gradebook import configure

configure(get_config(), Path(__file__).parent)
'''


def configure(config: Config, root: Path) -> Config:
    """Adds the course's settings to nbgrader's ``config`` for the folder ``root``."""
    config.CourseDirectory.root = str(root.resolve())
    config.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
    config.Autograde.sanitize_preprocessors = [
        "autograder.classroom.preprocessors.RepairNotebook",
        "nbgrader.preprocessors.ClearOutput",
        "nbgrader.preprocessors.DeduplicateIds",
        "nbgrader.preprocessors.OverwriteKernelspec",
        "nbgrader.preprocessors.OverwriteCells",
        "nbgrader.preprocessors.CheckCellMetadata",
    ]
    # nbgrader's own list, with our execution in place of its kernel.
    config.Autograde.autograde_preprocessors = [
        "autograder.classroom.preprocessors.MarkNotebook",
        "nbgrader.preprocessors.IgnorePattern",
        "nbconvert.preprocessors.ClearMetadataPreprocessor",
        "nbgrader.preprocessors.LimitOutput",
        "nbgrader.preprocessors.SaveAutoGrades",
        "nbgrader.preprocessors.AssignLatePenalties",
        "nbgrader.preprocessors.CheckCellMetadata",
    ]
    # Cells and outputs are a student's: what of them is a script is not for the browser of whoever reads them.
    config.HTMLExporter.sanitize_html = True
    config.HTMLExporter.preprocessors = [
        "autograder.classroom.preprocessors.CleanMarkdown",
        "nbgrader.preprocessors.ClearHiddenTests",
    ]
    late = read_rules(root).late
    config.AssignLatePenalties.plugin_class = "autograder.classroom.late.LatePolicy"
    config.LatePolicy.per_day, config.LatePolicy.at_most = late.per_day, late.at_most
    config.LatePolicy.grace_minutes = late.grace_minutes
    config.RepairNotebook.course = config.MarkNotebook.course = config.CourseDirectory.root
    return config


class Course:
    """One of nbgrader's course folders; it is made where it does not exist."""

    def __init__(self, root: Path, config: Config | None = None) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "nbgrader_config.py").write_text(CONFIG_FILE, encoding="utf-8")
        self.rules = read_rules(self.root)
        self.config = configure(config or Config(), self.root)

    @property
    def database(self) -> Path:
        """nbgrader's gradebook."""
        return self.root / "gradebook.db"

    @property
    def database_url(self) -> str:
        """As SQLAlchemy speaks of it."""
        return f"sqlite:///{self.database}"

    @property
    def journal(self) -> Path:
        """What has been graded, and with what."""
        return self.root / "journal.jsonl"

    def submitted(self, student: str, topic: str) -> Path:
        """The submission as nbgrader takes it in."""
        return self.root / "submitted" / student / topic / f"{topic}.ipynb"

    def autograded(self, student: str, topic: str) -> Path:
        """The submission with its marks and the feedback."""
        return self.root / "autograded" / student / topic / f"{topic}.ipynb"

    def released(self, topic: str) -> Path:
        """The notebook that students get."""
        return self.root / "release" / topic / f"{topic}.ipynb"

    def release(self, topic: str) -> Path:
        """Lets nbgrader make the students' notebook of ``topic`` and note its cells in the gradebook.

        Raises:
            CourseError: nbgrader refuses, for example as cells have come or gone since submissions were graded here.
        """
        source = self.root / "source" / topic / f"{topic}.ipynb"
        text = nbformat.writes(source_notebook(topic, self.rules.points.get(topic, {})))
        if (
            self.released(topic).is_file()
            and self.database.is_file()
            and source.is_file()
            and source.read_text(encoding="utf-8") == text
        ):
            self._set_due_date(topic)
            return self.released(topic)
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(text, encoding="utf-8")
        if not self.database.exists():
            self._begin_database()
        with self._nbgrader(topic) as (folder, log):
            try:
                GenerateAssignment(coursedir=folder, config=self.config, force=True).start()
            except NbGraderException:
                # What was written is out of step with the gradebook; the next attempt must not take it for done.
                source.unlink()
                refusal = f"nbgrader could not release {topic} in {self.root}: {_cause(log)}"
                raise CourseError(f"{refusal}; another --course starts afresh.") from None
        self._set_due_date(topic)
        return self.released(topic)

    def _begin_database(self) -> None:
        """A gradebook of the version that nbgrader's tables have, which it adds when it finds none.

        For a new one it would start ``alembic`` to tell it that version, which takes seconds.
        """
        scripts = ScriptDirectory(str(Path(nbgrader.__file__).parent / "alembic"))
        with closing(sqlite3.connect(self.database)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) NOT NULL)")
            database.execute("INSERT INTO alembic_version VALUES (?)", [scripts.get_current_head()])

    def _set_due_date(self, topic: str) -> None:
        """nbgrader keeps times in UTC, without saying so."""
        if self.database.is_file():
            due = self.rules.due.get(topic)
            with _scripts_on_path(), Gradebook(self.database_url) as gradebook:
                gradebook.update_or_create_assignment(topic, duedate=None if due is None else due.replace(tzinfo=None))

    def record(self, student: str, topic: str, submitted: str, autograded: str, timestamp: str | None) -> None:
        """Puts a submission and its marked notebook where nbgrader has them, and the marks into the gradebook.

        Marks that somebody gave by hand stay; nbgrader then asks for another look at them.

        Raises:
            CourseError: the gradebook can't be written.
        """
        for path, text in ((self.submitted(student, topic), submitted), (self.autograded(student, topic), autograded)):
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, text)
        self._set_timestamp(student, topic, timestamp)
        self._update(student, topic, nbformat.reads(autograded, as_version=4), (SaveAutoGrades, AssignLatePenalties))

    def penalise(self, student: str, topic: str, timestamp: str | None) -> None:
        """Works out anew what a graded submission loses for being late.

        Raises:
            CourseError: the gradebook can't be written.
        """
        self._set_timestamp(student, topic, timestamp)
        self._update(student, topic, new_notebook(), (AssignLatePenalties,))

    def _set_timestamp(self, student: str, topic: str, timestamp: str | None) -> None:
        for path in (self.submitted(student, topic), self.autograded(student, topic)):
            _replace(path.parent / TIMESTAMP, timestamp)

    def _update(self, student: str, topic: str, notebook: NotebookNode, preprocessors: tuple[type, ...]) -> None:
        """Lets nbgrader's own preprocessors write what they make of a marked ``notebook``."""
        about = {"student": student, "assignment": topic, "notebook": topic, "db_url": self.database_url}
        with self._nbgrader(topic) as (folder, _):
            try:
                when = folder.get_existing_timestamp(str(self.autograded(student, topic).parent))
                with Gradebook(self.database_url) as gradebook:
                    gradebook.update_or_create_student(student)
                    gradebook.update_or_create_submission(topic, student, timestamp=when)
                for preprocessor in preprocessors:
                    preprocessor(config=self.config).preprocess(notebook, {"nbgrader": about})
            except SQLAlchemyError as error:
                raise CourseError(f"{self.database} can't be written: {str(error).splitlines()[0]}.") from None

    def recorded(self, topic: str) -> set[str]:
        """The students whose marks for ``topic`` stand in the gradebook, beside the marked notebook."""
        with _scripts_on_path(), Gradebook(self.database_url) as gradebook:
            students = [submission.student_id for submission in gradebook.assignment_submissions(topic)]
        return {student for student in students if self.autograded(student, topic).is_file()}

    def enrol(self, student: str) -> None:
        """Adds a student, who may have handed in nothing, to the gradebook."""
        with _scripts_on_path(), Gradebook(self.database_url) as gradebook:
            gradebook.update_or_create_student(student)

    @contextmanager
    def _nbgrader(self, topic: str, student: str = "*") -> Iterator[tuple[CourseDirectory, list[str]]]:
        """nbgrader's view of the folder, and a list that fills with what it logs as errors."""
        errors = _Errors()
        log = logging.getLogger("traitlets")
        log.addHandler(errors)
        before, log.propagate = log.propagate, False
        try:
            with _scripts_on_path(), warnings.catch_warnings():
                # nbgrader's own use of SQLAlchemy makes it warn.
                warnings.simplefilter("ignore", SAWarning)
                yield CourseDirectory(config=self.config, assignment_id=topic, student_id=student), errors.messages
        finally:
            log.removeHandler(errors)
            log.propagate = before


def _replace(path: Path, text: str | None) -> None:
    """Writes ``text``, whole or not at all; without any, the file goes."""
    if text is None:
        path.unlink(missing_ok=True)
        return
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


@contextmanager
def _scripts_on_path() -> Iterator[None]:
    """nbgrader calls alembic by name; it lies beside this Python, which need not be on the PATH."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), before))
    try:
        yield
    finally:
        os.environ["PATH"] = before


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _cause(messages: list[str]) -> str:
    """The last line of the traceback that nbgrader logs, where there is one."""
    traces = [message for message in messages if message.startswith("Traceback")]
    return (traces or messages or ["it does not say why"])[0].strip().splitlines()[-1]
