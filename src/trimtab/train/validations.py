"""Validations of a student while it trains, and the weights of the best one: also when a run was killed in between."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from trimtab.errors import StorageError
from trimtab.records.io import append_line, storage_error, write_bytes

VALIDATION: Final = "validation.jsonl"
BEST: Final = "best"


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How good a student is by ground truth, on questions that it is not trained on.

    Attributes:
        step: Optimiser steps taken.
        score: Higher is better; the highest is kept, the earliest on a tie.
        figures: What the score is made of, for curves.
    """

    step: int
    score: float
    figures: dict[str, float]


_VALIDATION = TypeAdapter(Validation)


class Keeper:
    """Writes ``validation.jsonl`` and keeps the weights of the best step in ``best-STEP/``.

    What was best as of a checkpoint stays as long as the checkpoint: a run may go on from there.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        self._lines = [line for line in read_validations(folder / VALIDATION) if line.step <= step]
        if (folder / VALIDATION).exists():
            write_bytes(folder / VALIDATION, b"".join(_VALIDATION.dump_json(line) + b"\n" for line in self._lines))
        self._forget()

    def take(self, line: Validation, save_weights: Callable[[Path], None]) -> None:
        """Write a line, and the weights if they are the best so far; the folder appears in one move."""
        append_line(self._folder / VALIDATION, _VALIDATION.dump_json(line))
        self._lines.append(line)
        if best_of(self._lines) is not line:
            return
        fresh, place = self._folder / f".{BEST}-{line.step}", best_folder(self._folder, line)
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            save_weights(fresh)
            fresh.rename(place)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(fresh, ignore_errors=True)
            cause = error if isinstance(error, OSError) else OSError(str(error))
            raise storage_error(place, cause) from error
        self._forget()

    def _forget(self) -> None:
        """Remove weights that no checkpoint and no end of the training has a use for."""
        steps = [int(path.name.rpartition("-")[2]) for path in self._folder.glob("checkpoint-*")]
        seen = [[line for line in self._lines if line.step <= step] for step in steps]
        needed = {best.step for best in map(best_of, [*seen, self._lines]) if best is not None}
        remove_best(self._folder, needed)


def best_of(lines: Sequence[Validation]) -> Validation | None:
    """The line with the highest score, the earliest on a tie; ``None`` where there is none."""
    return max(lines, key=lambda line: (line.score, -line.step), default=None)


def best_folder(folder: Path, line: Validation) -> Path:
    """Where the weights of a step are kept."""
    return folder / f"{BEST}-{line.step}"


def remove_best(folder: Path, needed: Collection[int] = ()) -> None:
    """Remove kept weights except those of some steps.

    Raises:
        StorageError: If the folder cannot be written.
    """
    kept = {f"{BEST}-{step}" for step in needed}
    try:
        for path in (*folder.glob(f"{BEST}-*"), *folder.glob(f".{BEST}-*")):
            if path.name not in kept:
                shutil.rmtree(path)
    except OSError as error:
        raise storage_error(folder, error) from error


def read_validations(path: Path) -> tuple[Validation, ...]:
    """Every line of ``validation.jsonl``; a last line that a crash cut off is left out, a missing file has none.

    Raises:
        StorageError: If any other line is damaged.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    found: list[Validation] = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_VALIDATION.validate_json(line))
        except ValidationError as error:
            if number == len(lines):
                break
            raise StorageError(
                f"{path}:{number} is not a line of validations",
                allowed="lines written by trimtab",
                todo="remove this student's folder and run the same command again",
            ) from error
    return tuple(found)
