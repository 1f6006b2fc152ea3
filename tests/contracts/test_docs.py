"""What the documentation promises exists: keys, files, commands; and the README keeps its length."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from trimtab.records.claim_run import ClaimRunSettings
from trimtab.records.config import ControlSettings, RunSettings, TrainSettings

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])


def test_every_run_yaml_key_is_documented() -> None:
    page = (ROOT / "docs/reference/run-yaml.md").read_text()
    keys = [name for name in RunSettings.model_fields if name != "train"]
    keys += [f"controls[].{name}" for name in ControlSettings.model_fields]
    keys += [f"train.{name}" for name in TrainSettings.model_fields]
    rows = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    assert sorted(rows) == sorted(keys)


def test_documented_defaults_are_the_defaults() -> None:
    page = (ROOT / "docs/reference/run-yaml.md").read_text()
    for name, field in TrainSettings.model_fields.items():
        (shown,) = re.findall(rf"^\| `train\.{name}` \| `([^`]+)` \|", page, flags=re.MULTILINE)
        wanted = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        assert shown.strip(chr(34)) == wanted, name


def _rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and default of every setting, as the reference writes them."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _rows(kind, f"{prefix}{name}.")
            continue
        value = field.get_default(call_default_factory=True)
        shown = "–" if value is None else f"`{value!r}`".replace(chr(39), chr(34))
        yield f"{prefix}{name}", "required" if field.is_required() else shown


def test_every_reward_yaml_key_and_default_is_documented() -> None:
    page = (ROOT / "docs/reference/reward-yaml.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \|", page, flags=re.MULTILINE)
    assert dict(rows) == dict(_rows(ClaimRunSettings))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert not missing


def test_the_readme_is_short() -> None:
    assert 60 <= len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_commands_in_the_docs_exist() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    wanted = {
        " ".join(words)
        for words in re.findall(r"^\s*trimtab ((?:lab |bank |reward )?)([a-z]+)", text, flags=re.MULTILINE)
    }
    known: set[str] = set()
    for group in ((), ("lab",), ("bank",), ("reward",)):
        shown = subprocess.run(
            [sys.executable, "-m", "trimtab.cli", *group, "--help"], capture_output=True, text=True, check=True
        ).stdout
        commands = re.findall(r"^  ([a-z]+) ", shown.partition("Commands:")[2], flags=re.MULTILINE)
        known |= {" ".join((*group, command)) for command in commands}
    missing = {" ".join(command.split()) for command in wanted} - known
    assert known
    assert not missing
