from __future__ import annotations

import os
from pathlib import Path

import pytest

from trimtab.errors import StorageError
from trimtab.train import checkpoints
from trimtab.train.checkpoints import (
    KEPT,
    MARKER,
    link_or_copy,
    mark_complete,
    newest_complete,
    prune,
    remove_all_but,
)


def checkpoint(arm: Path, step: int, *, complete: bool = True) -> Path:
    folder = arm / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"w" * step)
    (folder / "optimizer").write_bytes(b"o" * step)
    if complete:
        mark_complete(folder, step=step, seconds=1.0, loss_total=0.1 + 0.2, loss_steps=3)
    return folder


def test_the_newest_complete_one_is_found(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "missing") is None
    for step in (5, 10, 100):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 200, complete=False)
    found = newest_complete(tmp_path)
    assert found is not None
    assert found.step == 100
    assert found.complete.loss_total == 0.1 + 0.2


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "marker torn", "renamed"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    checkpoint(tmp_path, 5)
    folder = checkpoint(tmp_path, 10)
    if damage == "cut":
        os.truncate(folder / "weights", 4)
    elif damage == "changed":
        (folder / "weights").write_bytes(b"v" * 10)
    elif damage == "missing":
        (folder / "optimizer").unlink()
    elif damage == "marker torn":
        os.truncate(folder / MARKER, 20)
    else:
        folder.rename(tmp_path / "checkpoint-11")
    found = newest_complete(tmp_path)
    assert found is not None
    assert found.step == 5


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    for step in (5, 10, 15, 100):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-notes").mkdir()
    prune(tmp_path)
    assert KEPT == 2
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-15", "checkpoint-100", "checkpoint-notes"}


def test_removing_all_but_one(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5)
    checkpoint(tmp_path, 10, complete=False)
    remove_all_but(tmp_path, newest_complete(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]
    remove_all_but(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_removed_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path, 5)

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoints.shutil, "rmtree", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        remove_all_but(tmp_path, None)
    assert newest_complete(tmp_path) is None  # the marker went first


@pytest.mark.parametrize("linking", [True, False])
def test_a_file_is_put_in_place_with_or_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linking: bool
) -> None:
    if not linking:

        def refuse(source: object, target: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(checkpoints.os, "link", refuse)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    for _ in range(2):
        link_or_copy(source, target)
    assert target.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
