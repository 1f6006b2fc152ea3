"""Every error says what was given, what is allowed and what to do, and has a documented exit code of its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from trimtab import errors
from trimtab.errors import DataError, Fault, TrimtabError

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reference" / "exit-codes.md"


def kinds(base: type[TrimtabError] = TrimtabError) -> list[type[TrimtabError]]:
    return [base, *(kind for child in base.__subclasses__() for kind in kinds(child))]


def documented() -> dict[str, int]:
    """Class name to exit code, from the table of the document."""
    rows = re.findall(r"^\| (\d+) \|(.*)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: int(code) for code, rest in rows for name in re.findall(r"`(\w+Error)`", rest)}


def test_the_document_lists_every_error_and_no_other() -> None:
    assert documented() == {kind.__name__: kind.exit_code for kind in kinds()}


def test_exit_codes_are_distinct_and_leave_those_of_the_shell_alone() -> None:
    codes = [kind.exit_code for kind in kinds() if "exit_code" in vars(kind)]
    assert len(codes) == len(set(codes)) > 5
    assert all(1 <= code < 64 for code in codes)
    for kind in kinds():
        if "exit_code" not in vars(kind):  # a special case of its parent: same code, and not the catch-all 1
            assert kind.exit_code == kind.__bases__[0].exit_code != TrimtabError.exit_code


def test_there_is_one_tree_of_errors_in_one_file() -> None:
    names = {kind.__name__ for kind in kinds()} | {"Exception", "BaseException"}
    elsewhere = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")  # private ones never leave their module
        and names & {ast.unparse(base).split(".")[-1] for base in node.bases}
    ]
    assert elsewhere == []
    assert all(kind.__module__ == errors.__name__ for kind in kinds())


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_the_message_says_given_allowed_and_todo(kind: type[TrimtabError]) -> None:
    text = str(kind("layer 12", allowed="layers 0 to 3", todo="choose a lower layer"))
    assert text.splitlines() == ["layer 12", "  allowed: layers 0 to 3", "  to do:   choose a lower layer"]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_an_error_without_advice_cannot_be_made(kind: type[TrimtabError]) -> None:
    with pytest.raises(TypeError, match="todo"):
        kind("layer 12", allowed="layers 0 to 3")  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_explains_itself(kind: type[TrimtabError]) -> None:
    assert kind.__doc__
    if kind is not TrimtabError:
        assert f"(exit {kind.exit_code})" in kind.__doc__


def test_faults_are_listed_up_to_twenty_and_all_kept() -> None:
    faults = [Fault(file="rows.jsonl", line=n, reason="not JSON") for n in range(1, 24)]
    error = DataError("23 faults", allowed="JSON lines", todo="mend them", faults=faults)
    text = str(error)
    assert text.startswith("23 faults\n  rows.jsonl:1: not JSON\n")
    assert "rows.jsonl:20:" in text
    assert "rows.jsonl:21:" not in text
    assert "… and 3 more\n  allowed: JSON lines\n  to do:   mend them" in text
    assert error.faults == tuple(faults)
