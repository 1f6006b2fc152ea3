"""Checkpoints that are whole or ignored.

Hugging Face writes a ``checkpoint-N`` folder file by file, so a process that dies meanwhile leaves a torn one. A
checkpoint counts here only once ``complete.json`` stands in it, written last, with the hash of every other file. The
hashes are checked on resume: what a power cut left half on disk is not resumed from either.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trimtab.errors import StorageError
from trimtab.records.io import load, save, storage_error

MARKER: Final = "complete.json"
KEPT: Final = 2
"""Complete checkpoints kept while training: should the newest be damaged, there is one more."""

_NAME: Final = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, kw_only=True)
class Complete:
    """Content of ``complete.json``.

    Attributes:
        step: Optimiser steps taken.
        seconds: Training time so far.
        loss_total: Sum of losses since the last line of metrics.
        loss_steps: Number of those losses.
        files: SHA-256 of every other file in the folder.
    """

    step: int
    seconds: float
    loss_total: float
    loss_steps: int
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Path
    complete: Complete

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return self.complete.step


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def matches(folder: Path, files: dict[str, str]) -> bool:
    """Whether every named file is there with the named hash."""
    try:
        return all(file_hash(folder / name) == digest for name, digest in files.items())
    except OSError:
        return False


def mark_complete(folder: Path, *, step: int, seconds: float, loss_total: float, loss_steps: int) -> None:
    """Declare a written checkpoint complete.

    Raises:
        StorageError: If the marker cannot be written.
    """
    hashes = {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.is_file()}
    save(
        Complete(step=step, seconds=seconds, loss_total=loss_total, loss_steps=loss_steps, files=hashes),
        folder / MARKER,
    )


def newest_complete(arm: Path) -> Checkpoint | None:
    """The newest checkpoint of a student that is complete and undamaged; ``None`` where there is none."""
    for folder in sorted(_folders(arm), key=_step, reverse=True):
        try:
            complete = load(Complete, folder / MARKER)
        except StorageError:
            continue
        if complete.step == _step(folder) and matches(folder, complete.files):
            return Checkpoint(folder=folder, complete=complete)
    return None


def remove_all_but(arm: Path, kept: Checkpoint | None) -> None:
    """Remove every checkpoint, torn ones included, except ``kept``.

    Raises:
        StorageError: If the folder cannot be written.
    """
    for folder in _folders(arm):
        if kept is None or folder != kept.folder:
            _remove(folder)


def prune(arm: Path) -> None:
    """Remove the oldest checkpoints beyond ``KEPT``.

    Raises:
        StorageError: If the folder cannot be written.
    """
    for folder in sorted(_folders(arm), key=_step)[:-KEPT]:
        _remove(folder)


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file in another place, whole or not at all, without copying its bytes where the file system can."""
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # renaming one link of a file to another does nothing


def _folders(arm: Path) -> list[Path]:
    if not arm.is_dir():
        return []
    return [path for path in arm.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def _remove(folder: Path) -> None:
    """Remove a checkpoint, its marker first: one that is half removed must not look complete."""
    try:
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)
    except OSError as error:
        raise storage_error(folder, error) from error
