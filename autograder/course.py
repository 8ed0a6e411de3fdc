"""Where the course lies on disk and which topics it has, in the order of ``_toc.yml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class CourseError(Exception):
    """Something a person can mend; the message is one clear sentence for them."""


def course_root() -> Path:
    """The folder that holds ``_toc.yml`` and ``solutions/``: the current one, one above it, or the package's own.

    Raises:
        CourseError: there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parent.parent):
        if (folder / "_toc.yml").is_file() and (folder / "solutions").is_dir():
            return folder
    raise CourseError(f"{here} is not inside the course: no folder above it holds _toc.yml and solutions/.")


def topics() -> tuple[str, ...]:
    """The topics that have a solution, in the order in which ``_toc.yml`` lists their lessons."""
    root = course_root()
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    names = (Path(file).stem for file in _files(toc) if file.startswith("chapters/"))
    return tuple(dict.fromkeys(name for name in names if (root / "solutions" / f"{name}.py").is_file()))


def _files(node: Any) -> list[str]:
    """Every ``file:`` of a toc, depth first."""
    if isinstance(node, list):
        return [file for item in node for file in _files(item)]
    if isinstance(node, dict):
        own = [node["file"]] if "file" in node else []
        return own + [file for value in node.values() for file in _files(value)]
    return []
