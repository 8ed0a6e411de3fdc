"""What the site should hold, read from its sources: the pages, their figures and their questions."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx_external_toc.parsing import parse_toc_yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*parse_toc_yaml(ROOT / "_toc.yml"), "search", "genindex"]


def short(page: str) -> str:
    """The name under which ``-k`` finds a page: that of its topic."""
    return page.removeprefix("chapters/")


def uses(directive: str) -> list[tuple[str, str]]:
    """Every (page, argument) at which the lessons use a directive."""
    found = []
    for page in PAGES:
        source = ROOT / f"{page}.md"
        if source.is_file():
            text = source.read_text(encoding="utf-8")
            found += [(page, name) for name in re.findall(rf"^[`:]{{3,}}\{{{directive}\}} +(\S+)", text, re.MULTILINE)]
    return found
