"""When pages are executed again, and on how many processors."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from sphinx.application import Sphinx
from sphinx.config import Config


def watch_helpers(app: Sphinx, config: Config) -> None:
    """Have changes seen that neither Sphinx nor jupyter-cache looks for.

    Pages are executed again when a module that they import changes, and read again when this extension or a
    static file does.
    """
    root, chapters = Path(app.srcdir), Path(app.srcdir) / "chapters"
    imported = [chapters / "lesson.py", *sorted((root / "autograder").rglob("*.py"))]
    config.nb_execution_cache_path = str(root / "build" / "executed" / _digest(imported))
    inputs = (path for folder in ("_ext", "_static") for path in (chapters / folder).rglob("*.*"))
    config.course_inputs = _digest(sorted(path for path in inputs if path.is_file() and path.suffix != ".pyc"))


def execute_side_by_side(app: Sphinx) -> None:
    """Execute what has changed on all processors; MyST-NB, which takes one page after another, then finds it done.

    A page that fails is not cached: MyST-NB executes it once more, and says what is wrong.
    """
    cache = get_cache(app.config.nb_execution_cache_path)
    chapters = sorted(Path(app.srcdir, "chapters").glob("*.md"))
    pages = [str(page) for page in chapters if "{code-cell}" in page.read_text(encoding="utf-8")]
    for page in pages:
        cache.add_nb_to_project(page, read_data={"name": "myst_nb_md", "type": "plugin"})
    executor = load_executor("local-parallel", cache, logger=logging.Logger("jupyter-cache", logging.CRITICAL))
    # The cache still knows pages that were renamed or taken away.
    executor.run_and_cache(filter_uris=pages, timeout=app.config.nb_execution_timeout)


def _digest(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def register(app: Sphinx) -> None:
    """Add the hooks."""
    app.add_config_value("course_inputs", "", "env", str)
    app.connect("config-inited", watch_helpers)
    app.connect("builder-inited", execute_side_by_side)
