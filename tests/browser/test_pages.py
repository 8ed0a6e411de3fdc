"""Every page of the site asks no other host for anything, reports no error, is accessible and fits the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.contents import PAGES, ROOT, short

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"

pytestmark = pytest.mark.site

NOISE = ("error", "warning")

# What axe finds in frames that are not ours: rule → where, and why it stands. Everything else fails.
THEME_FINDINGS = {
    "region": (".bd-sidebar-primary", "sphinx-book-theme puts the site's name outside of a landmark"),
    "aria-allowed-role": (".citation-list", "docutils marks each citation as doc-biblioentry"),
    "aria-deprecated-role": (".citation-list", "docutils marks each citation as doc-biblioentry"),
    "aria-required-children": (".citation-list", "docutils calls citations a list, but not its entries list items"),
}


WIDTHS = (390, 1280)
# Milliseconds after which the theme has seen which boxes scroll now, and lets the keyboard get to them.
DEBOUNCED = 500

# Most elements of a page are the letters of its formulas and the words of its code. A few formulas are like all others,
# and so is a word of each colour in each kind of box.
FEW = 3
FEWER_FORMULAS_AND_WORDS = """(few) => {
    [...document.querySelectorAll("mjx-container")].slice(few).forEach((formula) => formula.remove());
    const seen = new Set();
    for (const word of document.querySelectorAll("pre span")) {
        const kind = `${word.className} in ${word.closest("div")?.className}`;
        seen.has(kind) ? word.replaceWith(...word.childNodes) : seen.add(kind);
    }
}"""

# A page holds thousands of words and few kinds of text: for contrast, one of each kind that looks the same is enough,
# and what then holds no text can go.
ONE_OF_A_KIND = """() => {
    const ground = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return color !== "rgba(0, 0, 0, 0)" || !element.parentElement ? color : ground(element.parentElement);
    };
    const kind = (element) => {
        const style = getComputedStyle(element);
        return [style.color, ground(element), style.fontSize, style.fontWeight, style.opacity, style.display].join();
    };
    const words = (element) => [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
    const elements = [...document.querySelectorAll("body *:not(svg *)")];
    const seen = new Set();
    const again = elements.filter((element) => {
        if (!words(element).length) return false;
        const known = seen.has(kind(element));
        seen.add(kind(element));
        return known;
    });
    again.flatMap(words).forEach((node) => node.remove());
    for (const element of elements.reverse()) {
        if (!element.firstElementChild && !words(element).length && !element.matches("input, svg")) element.remove();
    }
}"""


@pytest.mark.parametrize("page_name", PAGES, ids=short)
def test_page_is_sound(open_context: Any, page_name: str) -> None:
    context = open_context(WIDTHS[0])
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in NOISE else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("response", lambda response: complaints.append(response.url) if response.status >= 400 else None)
    page.goto(f"{page_name}.html")
    settle(page)
    unfold(page)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"scrolls sideways: {wide(page, width)}"
    assert context.foreign == []
    assert complaints == []

    page.evaluate(FEWER_FORMULAS_AND_WORDS, FEW)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(DEBOUNCED)
        assert accessibility_findings(page, {"rules": {"color-contrast": {"enabled": False}}}) == [], width

    # What is wide, what it is and how it is called does not depend on the scheme. The side bars are there on a wide
    # screen alone.
    page.set_viewport_size({"width": max(WIDTHS), "height": 900})
    text = page.evaluate("document.body.innerHTML")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate("(html) => { document.body.innerHTML = html; }", text)
        page.wait_for_function("(scheme) => document.documentElement.dataset.theme === scheme", arg=scheme)
        page.evaluate(ONE_OF_A_KIND)
        assert accessibility_findings(page, {"runOnly": ["color-contrast"]}) == [], scheme


def test_the_root_leads_to_the_landing_page(open_context: Any) -> None:
    page = open_context().new_page()
    page.goto("index.html")
    page.wait_for_url("**/chapters/index.html")


def test_mathjax_is_served_by_the_site(site: Path) -> None:
    page = (site / "chapters" / "notation.html").read_text(encoding="utf-8")
    assert 'src="../_static/mathjax/' in page
    assert "sphinx-thebe" not in page
    assert "unpkg.com" not in page


def settle(page: Page) -> None:
    """Wait until formulas are set and the fonts are there."""
    page.evaluate("async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; }")


def unfold(page: Page) -> None:
    """Show all that a reader can show: folded parts and covered measurements."""
    page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    page.evaluate("document.querySelectorAll('.cover button').forEach((button) => button.click())")


def wide(page: Page, width: int) -> list[str]:
    """The elements that reach beyond the screen and scroll in no box of their own, for the message."""
    script = """(width) => [...document.querySelectorAll("main *")]
        .filter((it) => it.getBoundingClientRect().right > width + 1)
        .filter((it) => !it.parentElement.closest("pre, .output, .pst-scrollable-table-container, mjx-container"))
        .map((it) => `${it.tagName}.${it.className}`).slice(0, 8)"""
    return list(page.evaluate(script, width))


def accessibility_findings(page: Page, options: dict[str, Any]) -> list[str]:
    """What axe finds with these ``options``, less the listed findings."""
    page.add_script_tag(path=AXE)
    options = {"resultTypes": ["violations"], **options}
    violations = page.evaluate("async (options) => (await axe.run(document, options)).violations", options)
    return [
        f"{violation['id']} ({violation['impact']}) at {node['target']}: {node['html'][:160]}"
        for violation in violations
        for node in violation["nodes"]
        if not is_the_themes(page, violation["id"], node["target"])
    ]


def is_the_themes(page: Page, rule: str, target: list[str]) -> bool:
    """Whether the finding is listed, and lies where the list says."""
    where, _reason = THEME_FINDINGS.get(rule, ("", ""))
    return bool(where) and page.locator(target[0]).first.evaluate("(element, where) => !!element.closest(where)", where)
