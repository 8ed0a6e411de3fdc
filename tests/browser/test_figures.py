"""Interactive figures answer to the keyboard, and are pictures where there is no JavaScript."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.sync_api import Locator, Page

from tests.browser.contents import short, uses

FIGURES = uses("interactive")
HANDLES = "input[type=range], input[type=number], [role=slider]"
KEYS = ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown")

SEEN, HEARD = 0, 1

pytestmark = [
    pytest.mark.site,
    pytest.mark.parametrize(("page_name", "name"), FIGURES, ids=[f"{short(page)}-{name}" for page, name in FIGURES]),
]


def test_every_handle_answers_to_arrow_keys(open_context: Any, page_name: str, name: str) -> None:
    figure = open_figure(open_context(formulas=False).new_page(), page_name, name)
    handles = figure.locator(HANDLES)
    assert handles.count() > 0, "nothing in the figure can be moved"
    for handle in handles.all():
        before = seen_and_heard(figure)
        handle.focus()
        after = before
        for key in KEYS:  # at the end of its range a handle answers to the other direction only
            handle.press(key)
            after = changed(figure, before, SEEN, 1.0)
            if after != before:
                break
        after = changed(figure, before, HEARD, 5.0)  # what is dragged may be announced when it rests
        label = handle.evaluate("(it) => it.ariaLabel ?? it.closest('label')?.textContent.trim() ?? it.outerHTML")
        assert after[SEEN] != before[SEEN], f"the picture does not answer to {label!r}"
        assert after[HEARD] != before[HEARD], f"no text tells a listener what {label!r} did"


def test_without_javascript_it_is_a_picture(open_context: Any, page_name: str, name: str) -> None:
    figure = open_figure(open_context(javascript=False).new_page(), page_name, name)
    for drawing in figure.locator("svg").all():
        box = drawing.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 40
        assert drawing.locator("rect, circle, path, polygon, line, text").count() > 3


def open_figure(page: Page, page_name: str, name: str) -> Locator:
    """The figure, in view."""
    page.goto(f"{page_name}.html")
    figure = page.locator(f"[data-figure={name}]")
    figure.scroll_into_view_if_needed()
    return figure


def changed(figure: Locator, before: tuple[str, str], what: int, seconds: float) -> tuple[str, str]:
    """What is seen and heard as soon as ``what`` of it is no longer as it was, or when the time is over."""
    end = time.monotonic() + seconds
    while (after := seen_and_heard(figure))[what] == before[what] and time.monotonic() < end:
        figure.page.wait_for_timeout(20)
    return after


def seen_and_heard(figure: Locator) -> tuple[str, str]:
    """The drawings' markup, and the text that is announced."""
    drawings = figure.locator("svg").evaluate_all("(all) => all.map((it) => it.innerHTML).join()")
    spoken = figure.locator("[aria-live], output").evaluate_all("(all) => all.map((it) => it.textContent).join()")
    return drawings, spoken
