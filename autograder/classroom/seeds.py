"""The seeds that a class is graded with: the same when graded again, and not to be guessed by a student."""

from __future__ import annotations

import ast
import hashlib
import os
import secrets
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

PACKAGE = Path(__file__).parent.parent


def secret(course: Path) -> str:
    """What only the instructor has and every seed is derived from; made once for a course folder."""
    path = course / "secret"
    if not path.exists():
        # Whole or not there at all: an empty one could be guessed.
        with NamedTemporaryFile("w", dir=course, prefix="secret-", delete=False, encoding="ascii") as file:
            file.write(secrets.token_hex(16))
        os.replace(file.name, path)
    return path.read_text(encoding="ascii")


def derived_seed(key: str, fingerprint: str, exercise: str) -> int:
    """A seed below 2³¹ that only those who know ``key`` can tell.

    A class has one for each exercise: all are asked the same, and what is right is worked out once.
    """
    digest = hashlib.sha256("\0".join((key, fingerprint, exercise)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@cache
def exam_fingerprint(topic: str) -> str:
    """A hash of the exams' source and of every module of this package that marking with them needs."""
    todo, seen = [PACKAGE / "exams" / f"{topic}.py", PACKAGE / "engine" / "examine.py"], set[Path]()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += _imported(path)
    digest = hashlib.sha256()
    for path in sorted(seen):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _imported(path: Path) -> list[Path]:
    """The files of the modules of this package that the module at ``path`` imports."""
    names = [
        name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(PACKAGE.name)
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    ]
    files = (PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py") for name in names)
    return [file for file in files if file.is_file()]
