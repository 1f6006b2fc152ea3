"""Verdicts on disk: what was graded once is never paid for again, whatever ended the run before.

A verdict is kept under a hash of all that it may depend on: the grader's name, the conversation, the answer up to the
claim's end, and the claim's place and words. What the answer says after a claim is left out: it can take the claim
back, but not make it true or false, and answers that only go on differently (a harness that steps in, other samples
with the same beginning) share verdicts. So that this is exact for every grader, the grader is shown the same and no
more: the answer is cut behind the claim, and how the answer stands to it (which later words may change) is hidden.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from trimtab.errors import StorageError, UsageError
from trimtab.llm.client import Progress
from trimtab.records.claims import Asked, Grade
from trimtab.records.io import append_line, storage_error, write_bytes
from trimtab.roles import Grader

GRADES: Final = "grades.jsonl"
_LOCK: Final = ".grades.lock"


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One line of the file; ``claim`` is there for people who read it."""

    key: str
    grader: str
    claim: str
    grade: Grade


_LINE: Final[TypeAdapter[_Line]] = TypeAdapter(_Line)


class GradeBook:
    """``grades.jsonl`` of one folder, only ever appended to. Grades that are not settled stand in it for their cost.

    Args:
        folder: The folder; made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / GRADES
        self._forget()

    def _forget(self) -> None:
        self._grades: dict[str, Grade] = {}
        self._spent: dict[str, float] = {}
        self._read_to = 0
        self._lines = 0

    @property
    def grades(self) -> Mapping[str, Grade]:
        """Settled grades by key, as of the last time that the folder was held."""
        return self._grades

    def spent(self, grader: str) -> float:
        """What all grades of a grader in this folder cost, those that are not settled among them."""
        return self._spent.get(grader, 0.0)

    @contextmanager
    def held(self) -> Generator[None]:
        """Hold the folder, and read what others wrote there; a last line that was cut off is dropped.

        Raises:
            StorageError: If another process or grader holds it, it cannot be read or written, or a line of it is not a
                grade; then file and line are named.
        """
        lock = FileLock(self._folder / _LOCK, timeout=0, thread_local=False)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise StorageError(
                f"claims are being graded in {self._folder} already",
                allowed="one process at a time",
                todo="wait for it to end, or use another folder; a lock never outlives its process",
            ) from error
        except OSError as error:
            raise storage_error(self._folder, error) from error
        try:
            self._read()
            yield
        finally:
            lock.release()

    def keep(self, grader: str, graded: Mapping[str, tuple[Asked, Grade]]) -> None:
        """Append grades under their keys, on disk when this returns. Call it while the folder is held.

        Raises:
            StorageError: If the file cannot be written.
        """
        lines = [
            _Line(
                key=key,
                grader=grader,
                claim=_plain(asked.claim.text),
                grade=replace(grade, reason=_plain(grade.reason)),
            )
            for key, (asked, grade) in graded.items()
        ]
        data = b"\n".join(map(_LINE.dump_json, lines))
        append_line(self._path, data)
        self._read_to += len(data) + 1
        self._lines += len(lines)
        self._take(lines)

    def _read(self) -> None:
        try:
            text = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise storage_error(self._path, error) from error
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            write_bytes(self._path, whole)
        if len(whole) < self._read_to:
            self._forget()
        added = whole[self._read_to :].splitlines()
        self._take([self._parsed(line, number) for number, line in enumerate(added, self._lines + 1)])
        self._lines += len(added)
        self._read_to = len(whole)

    def _parsed(self, line: bytes, number: int) -> _Line:
        try:
            return _LINE.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "top level"
            raise StorageError(
                f"{self._path}:{number} is not a grade: {where}: {first['msg']}",
                allowed="lines that trimtab wrote, each with key, grader, claim and grade",
                todo="delete that line: the claim is then graded again; or use another folder",
            ) from error

    def _take(self, lines: Sequence[_Line]) -> None:
        for line in lines:
            self._spent[line.grader] = self._spent.get(line.grader, 0.0) + line.grade.cost
            if line.grade.settled:
                self._grades[line.key] = line.grade


class CachedGrader:
    """A grader that keeps what it is told (a ``Grader`` itself).

    What the grader returns is on disk before it is asked for more; if it raises, all batches before are kept, and the
    same call goes on behind them. A grade that is not settled (a call that failed) is returned as it is and asked for
    again next time.

    Args:
        grader: Who grades. Its name has to say everything that its verdicts depend on.
        folder: Where the verdicts are kept; several graders may share one.
        batch: Most claims in one call of the grader.
        progress: Called with claims done and claims in all.

    Attributes:
        hits: Claims that were on disk already, or stood in the same call before.
        misses: Claims that the grader was asked about.
    """

    def __init__(self, grader: Grader, folder: Path, *, batch: int = 64, progress: Progress | None = None) -> None:
        if batch < 1:
            raise UsageError(f"batch={batch}", allowed="at least 1 claim", todo="choose another batch")
        self.hits = 0
        self.misses = 0
        self._grader = grader
        self._book = GradeBook(folder)
        self._batch = batch
        self._progress = progress

    @property
    def name(self) -> str:
        """The grader's: its verdicts are these."""
        return self._grader.name

    @property
    def spent(self) -> float:
        """What all its grades in this folder cost, over all runs, as of the last call."""
        return self._book.spent(self.name)

    def __call__(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
        """As ``Grader``.

        Raises:
            StorageError: If the folder is held by another, damaged, or cannot be written.
            UsageError: If the grader does not return one grade per claim, each with a finite cost.
        """
        shown = [_shown(one) for one in asked]
        keys = [_key(self.name, one) for one in shown]
        passing: dict[str, Grade] = {}
        with self._book.held():
            missing = {key: one for key, one in zip(keys, shown, strict=True) if key not in self._book.grades}
            done = self._tell(len(asked) - len(missing), len(asked))
            self.hits += done
            left = list(missing.items())
            for start in range(0, len(left), self._batch):
                some = left[start : start + self._batch]
                grades = self._graded([one for _, one in some])
                graded = {key: (one, grade) for (key, one), grade in zip(some, grades, strict=True)}
                self._book.keep(self.name, graded)
                passing.update((key, grade) for key, (_, grade) in graded.items() if not grade.settled)
                self.misses += len(some)
                done = self._tell(done + len(some), len(asked))
            return tuple(passing.get(key) or self._book.grades[key] for key in keys)

    def _graded(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
        grades = self._grader(asked)
        if len(grades) != len(asked) or not all(math.isfinite(grade.cost) and grade.cost >= 0 for grade in grades):
            raise UsageError(
                f"grader {self.name!r}: {len(grades)} grades for {len(asked)} claims, "
                f"costs {sorted({grade.cost for grade in grades})[:5]}",
                allowed="one grade per claim, each with a finite cost of at least 0",
                todo="correct the grader; nothing of this batch was kept",
            )
        return grades

    def _tell(self, done: int, total: int) -> int:
        if self._progress is not None:
            self._progress(done, total)
        return done


def _shown(asked: Asked) -> Asked:
    """What the grader sees, and all that the key is made of."""
    claim = replace(asked.claim, stance="asserted")
    return Asked(prompt=asked.prompt, answer=asked.answer[: claim.end], claim=claim)


def _key(grader: str, asked: Asked) -> str:
    turns = [[turn["role"], turn["content"]] for turn in asked.prompt]
    parts = [grader, turns, asked.answer, asked.claim.start, asked.claim.end, asked.claim.text]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _plain(text: str) -> str:
    """The text without what is no character (lone surrogates), which JSON cannot hold."""
    return text.encode(errors="replace").decode()
