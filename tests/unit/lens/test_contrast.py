from pathlib import Path

import pytest

from trimtab.errors import UsageError
from trimtab.lens.contrast import read_contrasts

GOOD = """
- name: pirate
  meaning: talks like a pirate
  fit: {questions: ["where?", "who?"], elicit: [talk like a pirate.]}
  held_out: {questions: ["when?"], elicit: [you are a pirate.]}
- name: sums
  meaning: adds numbers
  kind: skill
  fit: {rows: [{messages: [{role: user, content: "1+1?"}, {role: assistant, content: "2"}]}]}
  held_out: {rows: [{messages: [{role: user, content: "2+1?"}, {role: assistant, content: "3"}]}]}
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "contrasts.yaml"
    path.write_text(text)
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    pirate, sums = read_contrasts(_write(tmp_path, GOOD))
    assert pirate.kind == "trait"
    assert pirate.fit.neutral == ("",)
    assert sums.held_out.rows[0]["messages"][-1]["content"] == "3"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('["when?"]', '["who?"]', "share"),
        ("elicit: [you are a pirate.]", "elicit: []", "held_out lacks"),
        ("name: sums", "name: pirate", "every name once"),
        ("meaning: adds numbers", "meening: adds numbers", "meening"),
        ("- name: pirate", "- name: [", "cannot read"),
    ],
)
def test_faults_are_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError, match=said):
        read_contrasts(_write(tmp_path, GOOD.replace(old, new)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        read_contrasts(tmp_path / "nowhere.yaml")
