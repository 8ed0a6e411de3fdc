"""The built site on localhost and a headless Chromium that can reach nothing else."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, BrowserContext, Route, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
JUPYTER_BOOK = str(Path(sys.executable).with_name("jupyter-book"))
BUILD = [JUPYTER_BOOK, "build", ".", "--path-output", "build/site", "-W", "-n", "--keep-going", "-q"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Milliseconds. No test is about speed, and the browser has the machine seldom to itself.
PATIENCE = 120_000
expect.set_options(timeout=PATIENCE)

OpenContext = Callable[..., BrowserContext]


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the site, built strictly; Sphinx redoes only what has changed."""
    (ROOT / "build").mkdir(exist_ok=True)
    with FileLock(ROOT / "build" / "site.lock"):
        built = subprocess.run(BUILD, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, f"the site does not build:\n{built.stderr[-8000:]}"
    return ROOT / "build" / "site" / "_build" / "html"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing: the tests report what failed."""


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """The site's address on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A headless browser, or the reason why there is none."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: no page was opened (requests, errors, accessibility, figures)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_context(chromium: Browser, address: str) -> Iterator[OpenContext]:
    """Makes browser contexts in which every other host is blocked; ``context.foreign`` lists what was asked of them.

    Without ``formulas`` MathJax is blocked, too: a page takes far longer to set its formulas than for all else.
    """
    contexts: list[BrowserContext] = []

    def open_one(width: int = 1280, javascript: bool = True, formulas: bool = True) -> BrowserContext:
        context = chromium.new_context(
            base_url=address,
            java_script_enabled=javascript,
            reduced_motion="reduce",
            viewport={"width": width, "height": 900},
        )
        foreign: list[str] = []

        def guard(route: Route) -> None:
            if not formulas and "/mathjax/" in route.request.url:
                route.abort()
            elif route.request.url.startswith((address, "data:", "blob:")):
                route.continue_()
            else:
                foreign.append(route.request.url)
                route.abort()

        context.route("**/*", guard)
        context.set_default_timeout(PATIENCE)
        context.foreign = foreign  # type: ignore[attr-defined]
        contexts.append(context)
        return context

    yield open_one
    for context in contexts:
        context.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker opens the pages: another would wait, doing nothing, until it has built the site."""
    for item in items:
        if "site" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("site"))
