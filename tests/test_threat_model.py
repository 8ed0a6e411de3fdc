"""The threat model names its tests; each of them is there."""

from __future__ import annotations

import re

from autograder.course import course_root

TEXT = (course_root() / "chapters" / "threat_model.md").read_text(encoding="utf-8")
PROMISES = TEXT.partition("## Promises")[2].partition("## What is not promised")[0]


def test_every_promise_names_a_test() -> None:
    rows = re.findall(r"^\* - (.+?)\n  - (.+?)$", PROMISES, flags=re.M)
    assert len(rows) >= 9
    for promise, held in rows[1:]:
        assert re.search(r"`tests/\S+::test_\w+`", held), promise


def test_every_test_and_every_attack_is_there() -> None:
    root = course_root()
    for path, name in re.findall(r"`(tests/\S+\.py)::(test_\w+)`", TEXT):
        assert f"def {name}(" in (root / path).read_text(encoding="utf-8"), name
    attacks = {path.stem for path in root.glob("tests/hostile/attacks/*.py")}
    named = set(re.findall(r"`([a-z_]+)`", PROMISES))
    assert len(named) > 20
    assert named <= attacks
