from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trimtab.errors import StorageError
from trimtab.records.io import load, save
from trimtab.train.manifest import Manifest, check_identity, git_state, make_manifest

IDENTITY = {"settings": {"max_steps": 5, "seeds": (0, 1)}, "model": "abc", "controls": []}


def test_a_manifest_survives_the_disk_and_agrees_with_itself(tmp_path: Path) -> None:
    made = make_manifest(IDENTITY, threads=1, command=["trimtab", "run"])
    save(made, tmp_path / "manifest.json")
    read = load(Manifest, tmp_path / "manifest.json")
    assert read == made
    assert {"python", "torch", "transformers", "peft", "trimtab"} <= set(read.versions)
    assert read.command == ("trimtab", "run")
    check_identity(read, IDENTITY, folder=tmp_path)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({**IDENTITY, "model": "abd"}, 'model: "abc" there, "abd" now'),
        ({**IDENTITY, "settings": {"max_steps": 6, "seeds": (0, 1)}}, "settings.max_steps: 5 there, 6 now"),
        ({**IDENTITY, "settings": {"max_steps": 5, "seeds": (0,)}}, "settings.seeds: [0, 1] there, [0] now"),
        ({**IDENTITY, "controls": ["token-mask"]}, 'controls: [] there, ["token-mask"] now'),
        ({**IDENTITY, "extra": 1}, "extra: nothing there, 1 now"),
        ({"settings": IDENTITY["settings"], "controls": []}, 'model: "abc" there, nothing now'),
    ],
)
def test_what_differs_is_named_and_nothing_else(tmp_path: Path, changed: dict[str, object], named: str) -> None:
    with pytest.raises(StorageError) as caught:
        check_identity(make_manifest(IDENTITY, threads=1), changed, folder=tmp_path)
    assert named in str(caught.value)
    assert caught.value.given.count("there,") == 1


def test_git_is_optional_and_dirt_is_seen(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None

    def git(*words: str) -> None:
        name = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *name, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    assert git_state(tmp_path) is None  # no commit yet
    git("commit", "--allow-empty", "-m", "first")
    clean = git_state(tmp_path)
    assert clean is not None
    assert (len(clean.commit), clean.dirty) == (40, False)
    (tmp_path / "file").write_text("x")
    dirty = git_state(tmp_path)
    assert dirty is not None
    assert dirty.dirty
