"""Questions whose answers make claims, from files, and how they are divided: no thing asked about is on two sides.

A row is a prompt row (``prompt``: text or turns) with, optionally, ``about`` (what it is about; by default the prompt
itself), ``group`` (the kind of question, for break-downs), ``known`` (true where the host surely knows the answer) and
``id``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal, TypeAlias

from trimtab.data.raw import RawRow, read_raw
from trimtab.data.shapes import Columns, RowError, prompt_row
from trimtab.errors import DataError, Fault
from trimtab.records.claims import ClaimQuestion

Part: TypeAlias = Literal["probe", "train", "tune", "held_out"]

SHARES: Final[Mapping[Part, float]] = {"probe": 0.35, "train": 0.30, "tune": 0.10, "held_out": 0.25}
"""Shares of the things that are asked about."""


def read_questions(path: str | Path) -> tuple[ClaimQuestion, ...]:
    """Read questions.

    Raises:
        DataError: Carries every fault, each with file, line and reason; also if there is no question.
    """
    found: list[ClaimQuestion] = []
    faults: list[Fault] = []
    for raw in read_raw(Path(path)):
        if not isinstance(raw, RawRow):
            faults.append(raw)
            continue
        try:
            found.append(_question(raw.columns, len(found)))
        except RowError as error:
            faults.append(Fault(file=str(path), line=raw.line, reason=str(error)))
    names = [question.id for question in found]
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if faults or not found or repeated:
        raise DataError(
            f"{path}: {len(faults)} of {len(found) + len(faults)} questions cannot be used"
            + (f"; ids that stand twice: {', '.join(repeated[:5])}" if repeated else ""),
            allowed="rows with prompt (text or turns that end with the user) and, optionally, about, group, known, id",
            todo="correct the listed lines",
            faults=faults,
        )
    return tuple(found)


def divide_questions(questions: Sequence[ClaimQuestion]) -> dict[Part, tuple[ClaimQuestion, ...]]:
    """Divide questions by a hash of what they are about.

    Raises:
        DataError: If a part would be empty.
    """
    sides: dict[Part, list[ClaimQuestion]] = {part: [] for part in SHARES}
    for question in questions:
        sides[_part(question.about)].append(question)
    empty = [part for part, side in sides.items() if not side]
    if empty:
        things = len({question.about for question in questions})
        raise DataError(
            f"{len(questions)} questions about {things} things leave no question for {', '.join(empty)}",
            allowed="questions about at least a few dozen different things",
            todo="add questions about other things, and say in `about` what each is about",
        )
    return {part: tuple(side) for part, side in sides.items()}


def same_thing(about: str) -> str:
    """What is asked about, without case and spacing: equal where two questions are about the same."""
    return " ".join(about.casefold().split())


def _part(about: str) -> Part:
    place = int.from_bytes(hashlib.sha256(same_thing(about).encode()).digest()[:4], "big") / 2**32
    total = 0.0
    for part, share in SHARES.items():
        total += share
        if place < total:
            return part
    return "held_out"


_OPTIONAL: Final = ("about", "group", "known", "id")
_ALIKE: Final = 0.8
"""How alike two names are (difflib's ratio) for one to be taken for the other, misspelt."""


def _question(columns: Columns, place: int) -> ClaimQuestion:
    for name in _OPTIONAL:
        meant = [] if name in columns else get_close_matches(name, set(columns) - {*_OPTIONAL}, 1, _ALIKE)
        if meant:
            raise RowError(f"column {meant[0]!r}: if {name!r} is meant, call it so; if not, give it another name")
    row = prompt_row(columns)
    prompt = tuple(row["prompt"])
    known = columns.get("known", False)
    if not isinstance(known, bool):
        raise RowError(f"known must be true or false, not {known!r}")
    return ClaimQuestion(
        id=row.get("id", f"question-{place + 1:05d}"),
        prompt=prompt,
        about=_text(columns, "about", prompt[-1]["content"]),
        group=_text(columns, "group", "all"),
        known=known,
    )


def _text(columns: Columns, name: str, otherwise: str) -> str:
    value = columns.get(name)
    if value is None:
        return otherwise
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{name} must be text, not {value!r}")
    return value
