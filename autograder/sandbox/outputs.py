"""The outputs that a student process claims for a cell, as far as a notebook may hold them."""

from __future__ import annotations

import json
from typing import Any

import nbformat

from autograder.bridge.codec import WireError

# Deeper than anything that is shown; nbformat and nbgrader follow a value by recursion.
DEEPEST = 50

Output = dict[str, Any]


def checked_outputs(told: Any, most: int) -> tuple[list[Output], int, int]:
    """The outputs of a cell, its number, and the size of what came; over ``most`` characters, a line that says so.

    Raises:
        WireError: they are not outputs.
    """
    if not isinstance(told, dict) or not isinstance(told.get("outputs"), str) or type(told.get("count")) is not int:
        raise WireError("a cell without outputs")
    text, count = told["outputs"], min(max(told["count"], 0), 2**31)
    if len(text) > most:
        return [_left_out(len(text))], count, 0
    try:
        # A lone surrogate is text in Python and in JSON, but not in a file.
        outputs = json.loads(json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace"))
        if not isinstance(outputs, list):
            raise WireError("outputs that are no list")
        outputs = [output if _depth(output) < DEEPEST else _left_out(len(text)) for output in outputs]
        for output in outputs:
            nbformat.validate(output, ref="output", version=4, version_minor=5)
    except (ValueError, TypeError, RecursionError, nbformat.ValidationError):
        raise WireError("outputs that no notebook may hold") from None
    return outputs, count, len(text)


def _depth(value: Any) -> int:
    """How deeply lists and dicts are nested, as far as ``DEEPEST``."""
    depth, level = 0, [value]
    while level and depth < DEEPEST:
        depth += 1
        level = [item for each in level for item in _items(each)]
    return depth


def _items(value: Any) -> list[Any]:
    found = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [item for item in found if isinstance(item, (dict, list))]


def _left_out(size: int) -> Output:
    return {"output_type": "stream", "name": "stderr", "text": f"[an output of {size:,} characters was left out]\n"}
