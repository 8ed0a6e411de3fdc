"""The source of an implementation from the catalogue, made to fit a student's cell."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from functools import cache
from types import FunctionType
from typing import Any

Definition = ast.FunctionDef | ast.ClassDef

# The decorators that enter a definition into the catalogue.
ENTERED = re.compile(r"\w+\.(variant|misconception)\b")


def transplant(implementation: Callable[..., Any], name: str, cell: str, imported: set[str]) -> str:
    """``cell``, the students' one for the exercise ``name``, with ``implementation`` as its answer.

    A function or class replaces the cell and takes the exercise's name; the ``forward`` of a class that was made from
    a function replaces the one in the cell. What it needs besides the modules ``imported`` by the notebook is
    imported above it, and what it uses of the catalogue comes along: helpers, whose names begin with an underscore,
    other entries, and constants.
    """
    code = _code_of(implementation)
    lines, module = _source(code.__module__)
    definition = _definition_of(code, module)
    if isinstance(implementation, type) and isinstance(definition, ast.FunctionDef):
        answer = _with_forward(cell, _renamed(definition, lines, "forward"))
    else:
        answer = _renamed(definition, lines, name)
    helpers = _helpers_of(definition, module)
    named = set().union(*map(_names_in, (definition, *helpers)))
    imports = [
        lines[node.lineno - 1]
        for node in module.body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and (_bound(node) & named) - imported
    ]
    constants = [
        lines[node.lineno - 1]
        for node in module.body
        if isinstance(node, ast.Assign) and {it for it in map(ast.unparse, node.targets) if it.isupper()} & named
    ]
    before = "\n".join([*imports, *constants]) + "\n\n" if imports or constants else ""
    return before + "\n\n\n".join([*(_renamed(helper, lines, helper.name) for helper in helpers), answer])


def names_imported(cells: Iterable[str]) -> set[str]:
    """Every name that the sources in ``cells`` import."""
    nodes = (node for cell in cells for node in ast.walk(ast.parse(cell)))
    return {name for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for name in _bound(node)}


@cache
def _source(module: str) -> tuple[list[str], ast.Module]:
    source = inspect.getsource(importlib.import_module(module))
    return source.splitlines(), ast.parse(source)


def _code_of(implementation: Callable[..., Any]) -> FunctionType | type:
    """What was written: a function, which may have become a module's ``forward``, or a class of another kind."""
    forward = vars(implementation).get("forward") if isinstance(implementation, type) else implementation
    found = inspect.unwrap(forward) if isinstance(forward, FunctionType) else implementation
    if not isinstance(found, (FunctionType, type)):
        raise TypeError(f"{implementation!r} has no source of its own")
    return found


def _definition_of(code: FunctionType | type, module: ast.Module) -> Definition:
    """The definition in the module's body that a function's first line lies in, decorators included, or a class's."""
    for node in module.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first = min(part.lineno for part in (node, *node.decorator_list))
            last = node.end_lineno or node.lineno
            if node.name == code.__name__ if isinstance(code, type) else first <= code.__code__.co_firstlineno <= last:
                return node
    raise ValueError(f"{code!r} is not defined in its module")


def _helpers_of(definition: Definition, module: ast.Module) -> list[Definition]:
    """The private definitions and the entries that it names, and that these name in turn, in the module's order."""
    private = {
        node.name: node
        for node in module.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (node.name.startswith("_") or node.decorator_list)
    }
    found: set[str] = set()
    open_ends = [definition]
    while open_ends:
        new = (_names_in(open_ends.pop()) & private.keys()) - found
        found |= new
        open_ends += [private[name] for name in new]
    return [node for name, node in private.items() if name in found and node is not definition]


def _renamed(definition: Definition, lines: list[str], name: str) -> str:
    """The definition without the decorators of the catalogue, under another name, where it speaks of itself, too."""
    decorators = [f"@{words}" for words in map(ast.unparse, definition.decorator_list) if not ENTERED.match(words)]
    source = "\n".join([*decorators, *lines[definition.lineno - 1 : definition.end_lineno]])
    return re.sub(rf"(?<![\w.]){definition.name}\b", name, source)  # not `F.relu`, in an answer called relu


def _with_forward(cell: str, forward: str) -> str:
    """The cell's class with another ``forward``."""
    lines = cell.splitlines()
    (old,) = (
        node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.FunctionDef) and node.name == "forward"
    )
    new = textwrap.indent(forward, " " * old.col_offset).splitlines()
    return "\n".join([*lines[: old.lineno - 1], *new, *lines[old.end_lineno :]])


def _bound(node: ast.Import | ast.ImportFrom) -> set[str]:
    return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}


def _names_in(definition: Definition) -> set[str]:
    return {node.id for node in ast.walk(definition) if isinstance(node, ast.Name)}
