"""`trimtab --help` and `import trimtab` load nothing heavy: modules are counted, not seconds."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trimtab

HEAVY = {
    "torch",
    "transformers",
    "trl",
    "numpy",
    "scipy",
    "sklearn",
    "pydantic",
    "peft",
    "datasets",
    "pandas",
    "accelerate",
}
INIT = Path(__file__).parents[2] / "src" / "trimtab" / "__init__.py"

REPORT = (
    "\nimport sys; sys.stderr.write('LOADED ' + ' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
)


def run(code: str) -> tuple[str, set[str]]:
    """Standard output of a fresh process, and the top-level modules that it had loaded at its end."""
    result = subprocess.run([sys.executable, "-c", code + REPORT], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout, set(result.stderr.rpartition("LOADED ")[2].split())


def help_of(*arguments: str) -> tuple[str, set[str]]:
    return run(
        f"import sys\nsys.argv = ['trimtab', *{arguments!r}]\nfrom trimtab.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
    )


def test_help_loads_nothing_heavy() -> None:
    printed, loaded = help_of("--help")
    assert "forecast" in printed
    assert "trimtab" in loaded
    assert loaded & HEAVY == set()


def test_help_of_a_command_loads_nothing_heavy() -> None:
    printed, loaded = help_of("forecast", "--help")
    assert "--data" in printed
    assert loaded & HEAVY <= {"pydantic"}  # with which typer itself reads parameters


def test_import_loads_nothing_heavy() -> None:
    _, loaded = run("import trimtab; dir(trimtab); trimtab.UsageError")
    assert loaded & HEAVY == set()


def test_the_count_can_fail() -> None:
    _, loaded = run("import trimtab; trimtab.Site; trimtab.Bank")
    assert {"torch", "numpy"} <= loaded


def test_every_public_name_loads_lazily_and_is_typed() -> None:
    tree = ast.parse(INIT.read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted([*typed, "__version__"]) == sorted(trimtab.__all__)
    for name, home in typed.items():
        assert getattr(trimtab, name) is getattr(sys.modules[str(home)], name)
    assert set(trimtab.__all__) <= set(dir(trimtab))


def test_a_verb_is_its_function_whichever_is_imported_first() -> None:
    check = "import trimtab as tt; assert tt.decide.__module__ == 'trimtab.loop.api', tt.decide"
    run(check)
    run(f"import trimtab.decide.rule\n{check}")
    run(f"{check}\nimport trimtab.decide.rule\n{check}")


def test_a_misspelt_name_fails_and_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Hots'; public names: Bank, .*Host"):
        _ = trimtab.Hots  # type: ignore[attr-defined]
