"""The notebooks of the hostile class: an ordinary submission, and what each attack makes of it."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jupytext

from autograder.notebooks.translate import exercise_path
from tests.hostile import damage

ATTACKS = Path(__file__).parent / "attacks"
TOPIC = "softmax"

# Partly right: wrong for large scores, right, blank, and a test that finds a little.
ANSWERS = {
    "softmax": """\
def softmax(x, dim=-1):
    e = torch.exp(x)
    return e / e.sum(dim, keepdim=True)
""",
    "log_softmax": """\
def log_softmax(x, dim=-1):
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()
""",
    "check_softmax": """\
def check_softmax(fn):
    x = torch.linspace(-3, 3, 12).reshape(3, 4)
    assert torch.allclose(fn(x).sum(-1), torch.ones(3))
""",
}


@dataclass(frozen=True)
class Attack:
    """A hostile submission.

    ``marks`` says what exercises deserve that the ordinary submission's marks are not for: a number, ``any``, or
    ``less`` than full marks. ``harm`` says what it would do to a machine without a sandbox. ``twice``: it is handed in
    by two students, of whom the second one looks for what the first one left.
    """

    name: str
    why: str
    student: str
    file: bytes
    marks: dict[str, Any] = field(default_factory=dict)
    harm: str = ""
    twice: bool = False
    refused: bool = False


def attacks() -> list[Attack]:
    """All of them, by name."""
    return [*(_attack(path) for path in sorted(ATTACKS.glob("*.py"))), *_damaged()]


def ordinary() -> dict[str, Any]:
    """The submission without an attack, as its file's JSON."""
    notebook: dict[str, Any] = json.loads(exercise_path(TOPIC).read_text(encoding="utf-8"))
    for name, answer in ANSWERS.items():
        answer_cell(notebook, name)["source"] = answer
    return notebook


def json_bytes(notebook: dict[str, Any]) -> bytes:
    """The file of a notebook."""
    return json.dumps(notebook).encode()


def answer_cell(notebook: dict[str, Any], exercise: str) -> dict[str, Any]:
    """The student's cell for ``exercise``."""
    cell: dict[str, Any]
    (cell,) = (each for each in notebook["cells"] if each["id"] == f"exercise-{exercise}")
    return cell


def _attack(path: Path) -> Attack:
    about, *cells = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent").cells
    notebook = ordinary()
    places = {"first": 0, "last": len(notebook["cells"])}
    for cell in cells:
        if "answer" in cell.metadata:
            answer_cell(notebook, cell.metadata["answer"])["source"] = cell.source
        else:
            place = places[cell.metadata["attack"]]
            notebook["cells"].insert(place, _code(cell.source, f"attack-{len(notebook['cells'])}"))
            places = {"first": places["first"], "last": len(notebook["cells"])}
            places["first"] += cell.metadata["attack"] == "first"
    keys = dict(about.metadata)
    options = {name: keys.pop(name) for name in ("student", "harm", "twice") if name in keys}
    return Attack(
        path.stem,
        about.source,
        options.get("student", path.stem),
        json_bytes(notebook),
        keys,
        options.get("harm", ""),
        options.get("twice", False),
    )


def _damaged() -> list[Attack]:
    return [
        Attack(made.__name__, made.__doc__ or "", made.__name__, made(deepcopy(ordinary())), refused=refused)
        for made, refused in damage.ALL
    ]


def _code(source: str, name: str) -> dict[str, Any]:
    return {"cell_type": "code", "id": name, "metadata": {}, "outputs": [], "execution_count": None, "source": source}
