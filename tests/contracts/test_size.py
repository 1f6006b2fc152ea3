"""Modules stay readable in one sitting, functions on one screen, imports at the top."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "trimtab"
MODULE_LINES = 400
FUNCTION_LINES = 60
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def oversights(source: str, name: str) -> list[str]:
    """What is too long or imports inside a function. A function's docstring does not count towards its length."""
    found: list[str] = []
    lines = len(source.splitlines())
    if lines > MODULE_LINES:
        found.append(f"{name}: {lines} lines, at most {MODULE_LINES}")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, FUNCTIONS):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if ast.get_docstring(node) is not None:
            length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
        if length > FUNCTION_LINES:
            found.append(f"{name}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}")
        found.extend(
            f"{name}:{inner.lineno}: import inside {node.name}"
            for inner in ast.walk(node)
            if isinstance(inner, ast.Import | ast.ImportFrom)
        )
    return found


def test_modules_and_functions_are_short_and_import_at_the_top() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    assert paths
    assert [
        fault
        for path in paths
        for fault in oversights(path.read_text(encoding="utf-8"), str(path.relative_to(PACKAGE)))
    ] == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n" * 401, "a.py: 401 lines, at most 400"),
        ("def f():\n" + "    x = 1\n" * 60, "a.py:1: f has 61 lines, at most 60"),
        ("class A:\n    async def f(self):\n" + "        x = 1\n" * 60, "a.py:2: f has 61 lines, at most 60"),
        ("def f():\n    from os import path", "a.py:2: import inside f"),
        ("def f():\n    if x:\n        import os", "a.py:3: import inside f"),
    ],
)
def test_an_oversight_is_found(source: str, said: str) -> None:
    assert oversights(source, "a.py") == [said]


def test_what_is_allowed_passes() -> None:
    docstring = '    """' + "words\n" * 30 + '    """\n'
    assert oversights("import os\ndef f():\n" + docstring + "    x = 1\n" * 59, "a.py") == []
