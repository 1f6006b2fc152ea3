"""Every control is documented like a lint rule, option by option."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trimtab.control.registry import REGISTRY
from trimtab.records.config import ControlSettings

ROOT = Path(__file__).parents[3]
SECTIONS = ("## What it does", "## Why it can mislead", "## Example", "## Options", "## Source")


def in_yaml(value: object) -> str:
    return yaml.safe_dump(value).split("\n")[0]


@pytest.mark.parametrize("name", REGISTRY)
def test_page(name: str) -> None:
    entry = REGISTRY[name]
    text = (ROOT / entry.doc_page).read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert [section for section in SECTIONS if section not in text] == []
    assert f"| surface | {entry.surface} |" in text
    assert f"| fights the gradient | {'yes' if entry.fights_gradient else 'no'} |" in text
    assert f"| baseline | {'yes' if entry.baseline else 'no'} |" in text
    options = text.split("## Options")[1].split("## Source")[0]
    rows = {line.split("|")[1].strip().strip("`"): line for line in options.splitlines() if line.startswith("| `")}
    assert set(rows) == set(entry.options)
    for option, field in entry.spec.model_fields.items():
        assert f"| `{in_yaml(field.default)}` |" in rows[option]


@pytest.mark.parametrize("name", REGISTRY)
def test_example_is_valid(name: str) -> None:
    text = (ROOT / REGISTRY[name].doc_page).read_text(encoding="utf-8")
    example = yaml.safe_load(text.split("## Example")[1].split("```yaml")[1].split("```")[0])
    settings = [ControlSettings.model_validate(item) for item in example["controls"]]
    own = next(item for item in settings if item.name == name)
    REGISTRY[name].spec.model_validate(own.options)


def test_index_lists_every_control() -> None:
    text = (ROOT / "docs/controls/index.md").read_text(encoding="utf-8")
    for name, entry in REGISTRY.items():
        assert f"[`{name}`]({name}.md)" in text
        assert entry.summary in text


def test_no_page_without_a_control() -> None:
    pages = {path.stem for path in (ROOT / "docs/controls").glob("*.md")} - {"index"}
    assert pages == set(REGISTRY)
