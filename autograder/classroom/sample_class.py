"""A class that never was: right and wrong answers from the catalogue in a known mix, so that grading can be checked."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import nbformat
from nbformat import NotebookNode

from autograder.classroom.intake import released_notebook
from autograder.course import CourseError
from autograder.engine.exam import Exam
from autograder.exams import exams_of
from autograder.notebooks.translate import EXERCISE, cell_id, exercises_of
from autograder.notebooks.transplant import names_imported, transplant

WRONG_SHARE, UNDONE_SHARE = 0.4, 0.07

GIVEN_NAMES = (
    "Aaliyah Adaeze Aiko Alejandro Amara Amit Anahera Andrzej Aroha Ayse Beatriz Bilal Chidi Chloe Daniel Dilnoza "
    "Elif Emeka Fatima Finn Freya Giulia Hamza Hana Hiroshi Ines Ingrid Ivan Jasper Jia Kaito Kwame Lea Leilani "
    "Linh Lucas Malik Maria Mateo Mei Mikko Nadia Noah Oluwaseun Omar Priya Quang Rania Rohan Sakura Samuel Sanne "
    "Siobhan Sofia Tamar Tariq Thandiwe Tomasz Valentina Wanjiru Xin Yara Yusuf Zanele"
)
FAMILY_NAMES = (
    "Abebe Adeyemi Ahmed Andersson Ibanez Banerjee Bauer Begum Castro Chen Cohen Costa Delacroix Diallo Dimitrov "
    "Eriksen Fernandez Fischer Garcia Gonzalez Gupta Haddad Hansen Hernandez Hoang Horvat Hussain Ivanova Jansen "
    "Johnson Kamau Kaur Khan Kim Kowalski Kumar Larsen Lee Levy Mahlangu Martin Mbeki Mendoza Mohamed Moreau Murphy "
    "Mutua Nakamura Ng Nguyen Novak Nowak Okafor Okonkwo Ozturk Park Patel Pereira Petrov Rossi Sato Schmidt Silva "
    "Singh Smith Suzuki Tanaka Tui Vargas Virtanen Wang Williams Yilmaz Zhang"
)

Item = TypeVar("Item")


@dataclass(frozen=True)
class Answer:
    """What one student holds for one exercise; an undone one has no name."""

    kind: Literal["variant", "misconception", "undone"]
    name: str = ""


def write_class(folder: Path, students: int, seed: int, topics: Sequence[str]) -> Iterator[str]:
    """Writes ``folder/<student>/<topic>.ipynb`` and ``folder/mix.json``, and yields each student when done.

    Raises:
        CourseError: the folder holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CourseError(f"{folder} is there already and not empty: name a new folder for the class.")
    dice = random.Random(seed)
    names = _names(students, dice)
    hands = {exam.name: _deal(exam, students, dice) for topic in topics for exam in exams_of(topic)}
    released = {topic: released_notebook(topic) for topic in topics}
    mix: dict[str, dict[str, dict[str, dict[str, str]]]] = {}
    for place, student in enumerate(names):
        (folder / student).mkdir(parents=True)
        mix[student] = {}
        for topic in topics:
            answers = {name: hands[name][place] for name in exercises_of(released[topic])}
            nbformat.write(_filled_in(released[topic], topic, answers), folder / student / f"{topic}.ipynb")
            mix[student][topic] = {name: asdict(answer) for name, answer in answers.items()}
        yield student
    (folder / "mix.json").write_text(json.dumps({"seed": seed, "students": mix}, indent=1) + "\n", encoding="utf-8")


def _names(students: int, dice: random.Random) -> list[str]:
    pairs = [f"{family}-{given}".lower() for family in FAMILY_NAMES.split() for given in GIVEN_NAMES.split()]
    dice.shuffle(pairs)
    unique = itertools.chain(pairs, (f"{pair}-{number}" for number in itertools.count(2) for pair in pairs))
    return sorted(itertools.islice(unique, students))


def _deal(exam: Exam, students: int, dice: random.Random) -> list[Answer]:
    """An answer for each student; the catalogue is dealt like cards, so that nothing comes twice before all came."""
    wrong = min(students, max(1, round(WRONG_SHARE * students)))
    undone = round(UNDONE_SHARE * students)
    variants, misconceptions = _deck(exam.variants, dice), _deck(exam.misconceptions, dice)
    answers = [Answer("misconception", next(misconceptions).name) for _ in range(wrong)]
    answers += [Answer("undone")] * undone
    answers += [Answer("variant", next(variants).name) for _ in range(students - wrong - undone)]
    dice.shuffle(answers)
    return answers


def _deck(cards: Sequence[Item], dice: random.Random) -> Iterator[Item]:
    while True:
        yield from dice.sample(cards, len(cards))


def _filled_in(released: NotebookNode, topic: str, answers: dict[str, Answer]) -> NotebookNode:
    """The students' notebook with each answer's source in its cell."""
    notebook: NotebookNode = deepcopy(released)
    cells = {cell.id: cell for cell in notebook.cells}
    imported = names_imported(cell.source for cell in notebook.cells if cell.cell_type == "code")
    for exam in exams_of(topic):
        answer = answers[exam.name]
        if answer.kind != "undone":
            cell = cells[cell_id(EXERCISE, exam.name)]
            cell.source = transplant(_implementation(exam, answer), exam.name, cell.source, imported)
    return notebook


def _implementation(exam: Exam, answer: Answer) -> Callable[..., Any]:
    catalogue = {entry.name: entry.implementation for entry in exam.misconceptions}
    catalogue |= {entry.name: entry.implementation for entry in exam.variants}
    return catalogue[answer.name]
