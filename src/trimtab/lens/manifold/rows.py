"""Rows with a class: conversations of which one word, or one place, is of this class or that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from trimtab.data.raw import RawRow, read_raw
from trimtab.data.select import Place
from trimtab.data.shapes import CHAT, Columns, RowError, chat_row
from trimtab.errors import DataError, Fault
from trimtab.records.rows import ChatRow

WANTED: Final = f"rows with {CHAT} and class (null: background); value and span where you have them"


@dataclass(frozen=True, kw_only=True)
class ClassRows:
    """Conversations with the class of each.

    Attributes:
        rows: The conversations.
        classes: Class of each; ``None``: it is background.
        values: Value of each class, by name; ``None`` where no class has one.
        spans: Where in its last selected turn each row is read, ``None``: at everything that is selected.
        source: File.
        lines: 1-based line of each.
    """

    rows: tuple[ChatRow, ...]
    classes: tuple[str | None, ...]
    values: Mapping[str, float] | None
    spans: tuple[Place | None, ...]
    source: str
    lines: tuple[int, ...]


def read_classes(path: str | Path) -> ClassRows:
    """Read rows with a ``class``, and for classes with an order or a place a ``value``.

    A row is a chat row (``messages``, or ``prompt`` and ``completion``) with ``class`` (text; ``null`` or absent is
    background), optionally ``value`` (a number, the same on every row of a class) and ``span`` (the words that are
    read, as text or as ``[start, end)`` characters of the last selected turn).

    Args:
        path: JSONL, JSON, CSV, Parquet or a ``datasets`` folder.

    Raises:
        DataError: Carries every fault, each with file, line and reason; also if fewer than four classes are left, or
            some classes have a value and others none.
    """
    rows: list[ChatRow] = []
    classes: list[str | None] = []
    spans: list[Place | None] = []
    lines: list[int] = []
    values: dict[str, float] = {}
    faults: list[Fault] = []
    for raw in read_raw(Path(path)):
        if not isinstance(raw, RawRow):
            faults.append(raw)
            continue
        try:
            row, name, span = chat_row(raw.columns), _class(raw.columns), _span(raw.columns)
            _note_value(raw.columns, name, values)
        except RowError as error:
            faults.append(Fault(file=str(path), line=raw.line, reason=str(error)))
            continue
        rows.append(row)
        classes.append(name)
        spans.append(span)
        lines.append(raw.line)
    names = {name for name in classes if name is not None}
    lacking = sorted(names - values.keys()) if values else []
    if faults or lacking or len(names) < 4:
        raise DataError(
            f"{path}: "
            + (f"{len(faults)} of {len(rows) + len(faults)} rows cannot be used; " if faults else "")
            + f"{len(names)} classes"
            + (f" ({', '.join(sorted(names))})" if 0 < len(names) < 4 else "")
            + (f"; without a value: {', '.join(lacking)}" if lacking else ""),
            allowed=f"{WANTED}; at least 4 classes, all of them with a value or none",
            todo="correct the lines, show at least 4 classes, and give all of them a value or none",
            faults=faults,
        )
    return ClassRows(
        rows=tuple(rows),
        classes=tuple(classes),
        values=values or None,
        spans=tuple(spans),
        source=str(path),
        lines=tuple(lines),
    )


def _class(columns: Columns) -> str | None:
    name = columns.get("class")
    if name is None or name == "":
        return None
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise RowError(f"class must be text or a whole number, not {name!r}")
    return str(name).strip()


def _note_value(columns: Columns, name: str | None, values: dict[str, float]) -> None:
    value = columns.get("value")
    if value is None or value == "":
        return
    try:
        number = float(cast("float", value))
    except (TypeError, ValueError):
        raise RowError(f"value {value!r} is not a number") from None
    if name is None:
        raise RowError(f"value {number:g} on a row without a class")
    if not abs(number) < float("inf"):
        raise RowError(f"value {value!r} is not finite")
    if values.setdefault(name, number) != number:
        raise RowError(f"class {name!r} has value {number:g} here and {values[name]:g} before")


def _span(columns: Columns) -> Place | None:
    span = columns.get("span")
    if span is None or span == "":
        return None
    if isinstance(span, str):
        return span
    ends = cast("list[object]", span) if isinstance(span, list | tuple) else []
    if len(ends) == 2 and all(isinstance(end, int) and not isinstance(end, bool) for end in ends):
        return cast("int", ends[0]), cast("int", ends[1])
    raise RowError(f"span must be text of the turn or [start, end), not {span!r}")
