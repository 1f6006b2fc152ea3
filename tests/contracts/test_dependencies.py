"""What is imported is declared, what is declared is needed and justified, and every lock fits its range."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DECLARED = {canonicalize_name(Requirement(line).name): Requirement(line) for line in PROJECT["project"]["dependencies"]}
DEV = {canonicalize_name(Requirement(line).name): Requirement(line) for line in PROJECT["dependency-groups"]["dev"]}
PACKAGE_OF = {"sklearn": "scikit-learn", "yaml": "pyyaml"}
NEEDED_UNIMPORTED = {"accelerate"}  # by transformers.Trainer


def imported(source: str) -> set[str]:
    """Distributions that a module imports, standard library and trimtab left out."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    names -= {*sys.stdlib_module_names, "trimtab"}
    return {canonicalize_name(PACKAGE_OF.get(name, name)) for name in names}


def all_imported() -> set[str]:
    paths = sorted((ROOT / "src").rglob("*.py"))
    return {name for path in paths for name in imported(path.read_text(encoding="utf-8"))}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_import_is_declared() -> None:
    assert all_imported() - set(DECLARED) == set()


def test_every_declared_package_is_needed() -> None:
    by_name = (ROOT / "src" / "trimtab").rglob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in by_name)
    idle = {name for name in set(DECLARED) - all_imported() if f'"{name.replace("-", "_")}"' not in text}
    assert idle - NEEDED_UNIMPORTED == set()


def test_every_declared_package_is_justified() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert rows == sorted(DECLARED)


@pytest.mark.parametrize("name", sorted({**DECLARED, **DEV}))
def test_every_package_has_a_range_and_a_pin_inside_it(name: str) -> None:
    requirement = {**DECLARED, **DEV}[name]
    assert {spec.operator for spec in requirement.specifier} == {">=", "<"}, "a lower and an upper bound"
    assert pins()[name] in requirement.specifier


def test_the_reading_of_imports_can_fail() -> None:
    found = imported(
        "import os, yaml\nfrom sklearn.svm import SVC\nfrom . import a\nif x:\n    import torch.nn\nimport trimtab"
    )
    assert found == {"pyyaml", "scikit-learn", "torch"}
