"""A run folder as it stands: each file that a page needs, read once; the missing are absent, the damaged are named."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from trimtab.errors import StorageError
from trimtab.records.forecast import Forecast
from trimtab.records.io import from_json
from trimtab.records.ledger import Ledger, read_ledger
from trimtab.records.results import Answer, ArmResult, Certificate, League

T = TypeVar("T")
_ANSWER: Final = TypeAdapter(Answer)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Training loss of one student.

    Attributes:
        points: ``(step, loss)``, finite, in order of steps.
        broken_at: Steps whose loss was not finite.
    """

    points: tuple[tuple[int, float], ...]
    broken_at: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One student's folder.

    Attributes:
        control: Name of the control set (from the result, else the folder's name).
        seed: Its seed, as the folder says it.
        result: How it did; ``None`` until it has been verified.
        curve: Its training loss; ``None`` where there are no metrics.
        answers: Its graded answers; the last one to each question.
    """

    control: str
    seed: str
    result: ArmResult | None
    curve: Curve | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that the page was made from."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RunSource:
    """What a run folder holds.

    Attributes:
        name: The folder's name.
        settings: ``run.yaml`` as text.
        manifest: ``manifest.json``.
        spec: ``spec.md`` as text.
        forecast: ``forecast.json``.
        ledger: ``ledger.jsonl``.
        arms: Every student's folder, ordered by control and seed.
        league: ``summary.json``.
        certificate: ``certificate.json``.
        faults: One sentence per file or line that could not be read.
        files: Every file that was read.
    """

    name: str
    settings: str | None = None
    manifest: dict[str, Any] | None = None
    spec: str | None = None
    forecast: Forecast | None = None
    ledger: Ledger | None = None
    arms: tuple[Arm, ...] = ()
    league: League | None = None
    certificate: Certificate | None = None
    faults: tuple[str, ...] = ()
    files: tuple[SourceFile, ...] = ()


def read_run(folder: Path) -> RunSource:
    """Read a run folder. A damaged file becomes a fault on the page; the rest of the page still stands.

    Raises:
        StorageError: If there is no such folder.
    """
    if not folder.is_dir():
        raise StorageError(
            f"no run folder at {folder}",
            allowed="a folder written by trimtab",
            todo="check the path, or make one with trimtab run",
        )
    reader = _Reader(folder=folder)
    return RunSource(
        name=folder.resolve().name,
        settings=reader.read("run.yaml", str),
        manifest=reader.read("manifest.json", _object),
        spec=reader.read("spec.md", str),
        forecast=reader.read("forecast.json", lambda text: from_json(Forecast, text, source="forecast.json")),
        ledger=reader.read("ledger.jsonl", lambda _: read_ledger(folder / "ledger.jsonl")),
        arms=tuple(_arm(reader, path) for path in sorted(folder.glob("arms/*/seed-*"), key=_by_seed) if path.is_dir()),
        league=reader.read("summary.json", lambda text: from_json(League, text, source="summary.json")),
        certificate=reader.read(
            "certificate.json", lambda text: from_json(Certificate, text, source="certificate.json")
        ),
        faults=tuple(reader.faults),
        files=tuple(reader.files),
    )


@dataclass(kw_only=True)
class _Reader:
    """Reads files of one folder and keeps count of what it read and what it could not."""

    folder: Path
    faults: list[str] = field(default_factory=list[str])
    files: list[SourceFile] = field(default_factory=list[SourceFile])

    def read(self, name: str, parse: Callable[[str], T]) -> T | None:
        """Parse one file; ``None`` where it is missing or damaged (then with a fault)."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            data = path.read_bytes()
            value = parse(data.decode())
        except StorageError as error:
            self.faults.append(f"{error.given}; left out")
        except (OSError, ValueError) as error:
            self.faults.append(f"{name} cannot be read: {error}; left out")
        else:
            self.files.append(SourceFile(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()))
            return value
        return None

    def lines(self, name: str, parse: Callable[[str], T | None]) -> tuple[T, ...]:
        """Parse one file line by line (a line feed ends a line); damaged lines become one fault."""
        text = self.read(name, str) or ""
        items: list[T] = []
        bad: list[int] = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                item = parse(line)
            except (ValidationError, ValueError):
                bad.append(number)
            else:
                if item is not None:
                    items.append(item)
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            self.faults.append(f"{name}: line {bad[0]}{more} cannot be read; left out")
        return tuple(items)


def _by_seed(path: Path) -> tuple[str, int, str]:
    number = path.name.removeprefix("seed-")
    return path.parent.name, int(number) if number.isdecimal() else 0, number


def _object(text: str) -> dict[str, Any]:
    value: object = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return cast("dict[str, Any]", value)


def _arm(reader: _Reader, path: Path) -> Arm:
    base = path.relative_to(reader.folder).as_posix()
    result = reader.read(f"{base}/result.json", lambda text: from_json(ArmResult, text, source=f"{base}/result.json"))
    answers = reader.lines(f"{base}/answers.jsonl", _ANSWER.validate_json)
    return Arm(
        control=path.parent.name if result is None else result.control,
        seed=path.name.removeprefix("seed-"),
        result=result,
        curve=_curve(reader.lines(f"{base}/metrics.jsonl", _loss)),
        answers=tuple({(answer.measure, answer.exam, answer.id): answer for answer in answers}.values()),
    )


def _loss(line: str) -> tuple[int, float] | None:
    """``(step, loss)`` of one line of metrics; ``None`` for a line about something else."""
    entry = _object(line)
    step, loss = entry.get("step"), entry.get("loss")
    return (step, float(loss)) if isinstance(step, int) and isinstance(loss, int | float) else None


def _curve(entries: tuple[tuple[int, float], ...]) -> Curve | None:
    """After a resume a step can stand twice; the last entry holds."""
    by_step = dict(sorted(dict(entries).items()))
    if not by_step:
        return None
    return Curve(
        points=tuple((step, loss) for step, loss in by_step.items() if math.isfinite(loss)),
        broken_at=tuple(step for step, loss in by_step.items() if not math.isfinite(loss)),
    )
