"""Read rows from files, with every fault in one list, and write them back.

A malformed row is never dropped in silence: by default the file is refused with the whole list of faults; with
``skip_bad=True`` the good rows are returned and the same list goes to the ``trimtab`` logger.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias, TypeVar, overload

from trimtab.data.raw import RawRow, read_raw
from trimtab.data.shapes import CHAT, PREFERENCES, PROMPTS, Columns, RowError, chat_row, preference_row, prompt_row
from trimtab.errors import DataError, Fault
from trimtab.records.io import write_bytes
from trimtab.records.rows import ChatRow, Fit, PreferenceRow, PromptCompletionRow, PromptRow, Rows, Split

logger = logging.getLogger(__name__)

RowT = TypeVar("RowT")
SplitT = TypeVar("SplitT", bound=Split)
AnyRow: TypeAlias = ChatRow | PromptRow | PromptCompletionRow | PreferenceRow


@overload
def read_chat(path: str | Path, *, skip_bad: bool = False) -> Rows[ChatRow, Fit]: ...
@overload
def read_chat(path: str | Path, *, split: type[SplitT], skip_bad: bool = False) -> Rows[ChatRow, SplitT]: ...
def read_chat(path: str | Path, *, split: type[Split] = Fit, skip_bad: bool = False) -> Rows[ChatRow, Split]:
    """Read conversations: ``messages`` rows, or ``prompt`` and ``completion`` (text or turns).

    Args:
        path: A ``.jsonl``, ``.json``, ``.csv`` (each also ``.gz``) or ``.parquet`` file, or a folder saved by
            ``datasets``' ``save_to_disk``. JSON Lines are streamed; only the rows are held in memory.
        split: What the rows may be used for; part of the result's type.
        skip_bad: Return the good rows and log the faults, instead of refusing the file.

    Raises:
        DataError: Carries every fault, each with file, line and reason; also if no good row is left.
    """
    return _read(Path(path), chat_row, split, skip_bad=skip_bad, wanted=CHAT)


@overload
def read_prompts(path: str | Path, *, skip_bad: bool = False) -> Rows[PromptRow, Fit]: ...
@overload
def read_prompts(path: str | Path, *, split: type[SplitT], skip_bad: bool = False) -> Rows[PromptRow, SplitT]: ...
def read_prompts(path: str | Path, *, split: type[Split] = Fit, skip_bad: bool = False) -> Rows[PromptRow, Split]:
    """Read ``prompt`` rows (text or turns, ending with the user), with their ``id`` where they have one.

    Args:
        path: As in ``read_chat``.
        split: As in ``read_chat``.
        skip_bad: As in ``read_chat``.

    Raises:
        DataError: As in ``read_chat``; also where two rows have the same ``id``.
    """
    return _read(Path(path), _unique_ids(), split, skip_bad=skip_bad, wanted=PROMPTS)


@overload
def read_preferences(path: str | Path, *, skip_bad: bool = False) -> Rows[PreferenceRow, Fit]: ...
@overload
def read_preferences(
    path: str | Path, *, split: type[SplitT], skip_bad: bool = False
) -> Rows[PreferenceRow, SplitT]: ...
def read_preferences(
    path: str | Path, *, split: type[Split] = Fit, skip_bad: bool = False
) -> Rows[PreferenceRow, Split]:
    r"""Read preference pairs: ``chosen`` and ``rejected``, text or turns, with an explicit or implicit ``prompt``.

    Pairs of plain transcripts (``"\n\nHuman: …\n\nAssistant: …"``) part at the last turn that they share; other plain
    pairs without a prompt part at the last word that they share.

    Args:
        path: As in ``read_chat``.
        split: As in ``read_chat``.
        skip_bad: As in ``read_chat``.

    Raises:
        DataError: As in ``read_chat``.
    """
    return _read(Path(path), preference_row, split, skip_bad=skip_bad, wanted=PREFERENCES)


def write_jsonl(rows: Iterable[AnyRow], path: str | Path) -> None:
    """Write rows as JSON Lines (UTF-8), atomically; ``read_chat`` and its siblings read them back.

    Raises:
        StorageError: If the file cannot be written; an older file at ``path`` is kept.
    """
    write_bytes(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _unique_ids() -> Callable[[Columns], PromptRow]:
    """``prompt_row``, but an ``id`` may come only once: answers are compared question by question."""
    seen: set[str] = set()

    def convert(columns: Columns) -> PromptRow:
        row = prompt_row(columns)
        name = row.get("id")
        if name is not None and name in seen:
            raise RowError(f"id {name!r} stands in an earlier row too")
        if name is not None:
            seen.add(name)
        return row

    return convert


def _read(
    path: Path, convert: Callable[[Columns], RowT], split: type[Split], *, skip_bad: bool, wanted: str
) -> Rows[RowT, Split]:
    rows: list[RowT] = []
    lines: list[int] = []
    faults: list[Fault] = []
    ignored: Counter[str] = Counter()
    used = set(wanted.replace(",", " ").replace("(", " ").replace(")", " ").split())
    for raw in read_raw(path):
        if not isinstance(raw, RawRow):
            faults.append(raw)
            continue
        try:
            rows.append(convert(raw.columns))
            lines.append(raw.line)
            ignored.update(name for name, value in raw.columns.items() if name not in used and value is not None)
        except RowError as error:
            faults.append(Fault(file=str(path), line=raw.line, reason=str(error)))
    _settle(path, len(rows), faults, skip_bad=skip_bad, wanted=wanted)
    if ignored:
        named = ", ".join(f"{name} ({count} rows)" for name, count in ignored.most_common())
        logger.warning("%s: columns that are not used: %s", path, named)
    return Rows(items=tuple(rows), split=split, source=str(path), lines=tuple(lines))


def _settle(path: Path, good: int, faults: list[Fault], *, skip_bad: bool, wanted: str) -> None:
    """Refuse, or say in full what is skipped."""
    if not good and not faults:
        raise DataError(f"{path} holds no rows", allowed=f"at least one row with {wanted}", todo="check the file")
    if faults and (not skip_bad or not good):
        raise DataError(
            f"{path}: {len(faults)} of {good + len(faults)} rows cannot be used",
            allowed=f"rows with {wanted}; turns from system (first, at most once), user and assistant (last)",
            todo="correct the listed lines"
            + (", or skip them (--skip-bad-rows; skip_bad=True in Python)" if good else ""),
            faults=faults,
        )
    if faults:
        listed = "".join(f"\n  {fault}" for fault in faults)
        logger.warning("%s: skipped %d of %d rows:%s", path, len(faults), good + len(faults), listed)
