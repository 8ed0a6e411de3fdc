"""A measured answer is covered until the reader has guessed, or has asked to see it."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.contents import short, uses

QUESTIONS: dict[str, list[str]] = {}
for page_name, question in uses("predict"):
    QUESTIONS.setdefault(page_name, []).append(question)

COVERED, SHOWN = "reveal-measured covered", "reveal-measured"

pytestmark = [pytest.mark.site, pytest.mark.parametrize("page_name", QUESTIONS, ids=short)]


def test_a_guess_uncovers_the_measurement_and_stands_beside_it(open_context: Any, page_name: str) -> None:
    page = opened(open_context(formulas=False), page_name)
    for name in QUESTIONS[page_name]:
        expect(measured(page, name)).to_have_class(COVERED)
        page.locator(f"#guess-{name}").fill("12.5")
        page.locator(f"#guess-{name}").press("Enter")
        expect(measured(page, name)).to_have_class(SHOWN)
        number = answer(page, name).get_attribute("data-measured")
        assert number
        expect(verdict(page, name)).to_contain_text("12.5")
        expect(verdict(page, name)).to_contain_text(number)

    page.reload()
    for name in QUESTIONS[page_name]:
        expect(verdict(page, name)).to_contain_text("12.5")


def test_it_can_be_shown_without_a_guess(open_context: Any, page_name: str) -> None:
    page = opened(open_context(formulas=False), page_name)
    for name in QUESTIONS[page_name]:
        output = page.locator(".cell_output", has=answer(page, name))
        output.get_by_role("button", name="Show without guessing").press("Enter")
        expect(measured(page, name)).to_have_class(SHOWN)
        expect(verdict(page, name)).to_be_empty()


def test_without_javascript_all_is_visible(open_context: Any, page_name: str) -> None:
    page = opened(open_context(javascript=False), page_name)
    for name in QUESTIONS[page_name]:
        expect(measured(page, name)).to_be_visible()
        expect(measured(page, name)).to_have_class(SHOWN)
        expect(page.locator(f"#guess-{name}")).to_be_hidden()


def opened(context: Any, page_name: str) -> Page:
    """The page, before anyone has touched it."""
    page: Page = context.new_page()
    page.goto(f"{page_name}.html")
    return page


def answer(page: Page, name: str) -> Locator:
    """What ``reveal`` put into the page."""
    return page.locator(f".reveal[data-predict={name}]")


def measured(page: Page, name: str) -> Locator:
    """The measured number."""
    return answer(page, name).locator(".reveal-measured")


def verdict(page: Page, name: str) -> Locator:
    """The line that compares the guess with it."""
    return answer(page, name).locator(".reveal-verdict")
