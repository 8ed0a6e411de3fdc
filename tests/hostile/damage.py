"""Attacks on the file itself: each takes the ordinary notebook's JSON and gives the bytes that are handed in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Notebook = dict[str, Any]


def truncated(notebook: Notebook) -> bytes:
    """The file breaks off in the middle."""
    data = json.dumps(notebook).encode()
    return data[: len(data) // 2]


def empty_file(notebook: Notebook) -> bytes:
    """A file of no bytes."""
    return b""


def not_utf8(notebook: Notebook) -> bytes:
    """Text in another encoding."""
    return json.dumps(notebook, ensure_ascii=False).encode("utf-16")


def zeros(notebook: Notebook) -> bytes:
    """A megabyte of zeros."""
    return bytes(2**20)


def deeply_nested(notebook: Notebook) -> bytes:
    """Brackets in a hundred thousand brackets."""
    return b'{"cells": ' + b"[" * 100_000


def too_large(notebook: Notebook) -> bytes:
    """A file of sixty megabytes."""
    return json.dumps({**notebook, "metadata": {"x": "x" * 60_000_000}}).encode()


def a_million_cells(notebook: Notebook) -> bytes:
    """More cells than anybody runs: each is looked at, copied, checked and marked."""
    return json.dumps({**notebook, "cells": [*notebook["cells"], *[{"cell_type": "raw"}] * 10**6]}).encode()


def cells_that_are_none(notebook: Notebook) -> bytes:
    """Among the cells are numbers, lists, and cells whose type is a list."""
    odd: list[Any] = [
        5,
        None,
        [],
        {"cell_type": ["code"]},
        {"cell_type": {}},
        {"cell_type": "code", "source": {"a": 1}},
    ]
    return json.dumps({**notebook, "cells": [*odd, *notebook["cells"]]}).encode()


def sources_that_are_none(notebook: Notebook) -> bytes:
    """Cells whose source, id and metadata are of every wrong type."""
    odd: list[Any] = [[1, [2], None], 7, None, {"deep": [[[[]]]]}]
    cells = [{"cell_type": "markdown", "source": source, "id": source, "metadata": source} for source in odd]
    return json.dumps({**notebook, "cells": [*cells, *notebook["cells"]]}).encode()


def surrogates_in_the_file(notebook: Notebook) -> bytes:
    """A lone surrogate in a cell, its name and its metadata: JSON holds it, a file does not."""
    cell = {
        "cell_type": "markdown",
        "source": "\ud800",
        "id": "\ud800",
        "metadata": {"nbgrader": {"grade_id": "\udfff"}},
    }
    return json.dumps({**notebook, "cells": [cell, *notebook["cells"]]}).encode()


def odd_cell_ids(notebook: Notebook) -> bytes:
    """Cell ids that nbformat does not take: with blanks, empty, endless, twice the same."""
    cells = [
        {"cell_type": "raw", "source": "", "id": name, "metadata": {}} for name in ("a b", "", "x" * 999, "a", "a")
    ]
    return json.dumps({**notebook, "cells": [*cells, *notebook["cells"]]}).encode()


def duplicated_exam(notebook: Notebook) -> bytes:
    """Each exam cell twice, which makes nbgrader give up on the whole class."""
    cells = [copy for cell in notebook["cells"] for copy in ([cell, cell] if _is_exam(cell) else [cell])]
    return json.dumps({**notebook, "cells": cells}).encode()


def exams_edited(notebook: Notebook) -> bytes:
    """The exam cells give full marks."""
    for cell in filter(_is_exam, notebook["cells"]):
        cell["source"] = "5.0"
    return json.dumps(notebook).encode()


def exams_skipped(notebook: Notebook) -> bytes:
    """The exam cells are tagged to be skipped, and hold the output of full marks."""
    for cell in filter(_is_exam, notebook["cells"]):
        cell["metadata"]["tags"] = ["skip-execution", "raises-exception"]
        cell["outputs"] = [
            {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": {"text/plain": "5.0"}}
        ]
    return json.dumps(notebook).encode()


def exams_worth_more(notebook: Notebook) -> bytes:
    """The exam cells say that they are worth a thousand points."""
    for cell in filter(_is_exam, notebook["cells"]):
        cell["metadata"]["nbgrader"]["points"] = 1000
    return json.dumps(notebook).encode()


def exams_deleted(notebook: Notebook) -> bytes:
    """No exam cell is left."""
    return json.dumps({**notebook, "cells": [cell for cell in notebook["cells"] if not _is_exam(cell)]}).encode()


def exams_as_markdown(notebook: Notebook) -> bytes:
    """The exam cells have become text."""
    for cell in filter(_is_exam, notebook["cells"]):
        cell["cell_type"] = "markdown"
        del cell["outputs"], cell["execution_count"]
    return json.dumps(notebook).encode()


def exams_renamed(notebook: Notebook) -> bytes:
    """The exam cells carry each other's names."""
    exams = list(filter(_is_exam, notebook["cells"]))
    names = [cell["metadata"]["nbgrader"]["grade_id"] for cell in exams]
    for cell, name in zip(exams, names[1:] + names[:1], strict=True):
        cell["metadata"]["nbgrader"]["grade_id"] = name
    return json.dumps(notebook).encode()


def metadata_stripped(notebook: Notebook) -> bytes:
    """All metadata is gone, as some editors leave it."""
    for cell in notebook["cells"]:
        cell["metadata"] = {}
    return json.dumps({**notebook, "metadata": {}}).encode()


def says_that_it_was_marked(notebook: Notebook) -> bytes:
    """The notebook's metadata claim to be the grader's own."""
    about = {"topic": "softmax", "problem": "", "repairs": ["none"], "points": 100}
    return json.dumps({**notebook, "metadata": {"autograder": about}}).encode()


def another_kernel(notebook: Notebook) -> bytes:
    """The kernel that is asked for is a command of the student's."""
    kernel = {"name": "bash", "display_name": "touch /tmp/hostile-mark", "language": "bash"}
    return json.dumps({**notebook, "metadata": {"kernelspec": kernel}}).encode()


def script_in_markdown(notebook: Notebook) -> bytes:
    """Scripts in text cells, for the browser of whoever reads the feedback."""
    texts = (
        "<script>hostile_mark()</script>",
        "<img src=x onerror=hostile_mark()>",
        "[link](javascript:hostile_mark())",
        "<iframe srcdoc='<script>hostile_mark()</script>'></iframe>",
        "<svg onload=hostile_mark()>",
    )
    cells = [{"cell_type": "markdown", "source": text, "id": f"x{n}", "metadata": {}} for n, text in enumerate(texts)]
    return json.dumps({**notebook, "cells": [*cells, *notebook["cells"]]}).encode()


def _is_exam(cell: dict[str, Any]) -> bool:
    return str(cell["id"]).startswith("exam-")


# With each: whether the file is refused and gets nothing; otherwise it is marked like the ordinary one.
ALL: list[tuple[Callable[[Notebook], bytes], bool]] = [
    *((damage, True) for damage in (truncated, empty_file, not_utf8, zeros, deeply_nested, too_large, a_million_cells)),
    *((damage, False) for damage in (cells_that_are_none, sources_that_are_none, odd_cell_ids, surrogates_in_the_file)),
    *((damage, False) for damage in (duplicated_exam, exams_edited, exams_skipped, exams_worth_more, exams_deleted)),
    *((damage, False) for damage in (exams_as_markdown, exams_renamed, metadata_stripped, says_that_it_was_marked)),
    *((damage, False) for damage in (another_kernel, script_in_markdown)),
]
