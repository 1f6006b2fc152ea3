"""Set rows aside for verifying, so that no prompt is on both sides; and name a set of rows by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

from trimtab.errors import DataError, UsageError
from trimtab.records.rows import ChatRow, Fit, HeldOut, Message, PreferenceRow, PromptRow, Rows

RowT = TypeVar("RowT", ChatRow, PromptRow, PreferenceRow)


def split_rows(
    rows: Rows[RowT, Fit], *, held_out_share: float, seed: int
) -> tuple[Rows[RowT, Fit], Rows[RowT, HeldOut]]:
    """Split rows in two, in their order, by what the user says.

    Rows whose user turns are the same but for case and white space stay together, whatever their system prompt and
    answers are. Which side a prompt falls on depends on its text and the seed, not on the order of the file.

    Args:
        rows: At least two rows with different prompts.
        held_out_share: Share of rows to set aside, in (0, 1); met as nearly as whole groups allow, at least one group.
        seed: Another seed sets other prompts aside.

    Raises:
        UsageError: If the share is not in (0, 1).
        DataError: If all rows have the same prompt.
    """
    if not 0 < held_out_share < 1:
        raise UsageError(f"held_out_share={held_out_share}", allowed="a share between 0 and 1", todo="pass e.g. 0.2")
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(_prompt_key(row, seed), []).append(index)
    if len(groups) < 2:
        raise DataError(
            f"{rows.source}: {len(rows)} rows with {len(groups)} different prompts cannot be split",
            allowed="at least two different prompts",
            todo="add rows, or name a file of held-out rows (held_out)",
        )
    target = held_out_share * len(rows)
    held: set[int] = set()
    for rank, key in enumerate(sorted(groups)):
        group = groups[key]
        if rank == 0 or (abs(len(held) + len(group) - target) < abs(len(held) - target) and rank < len(groups) - 1):
            held.update(group)
    kept = [index for index in range(len(rows)) if index not in held]
    return _take(rows, kept, Fit), _take(rows, sorted(held), HeldOut)


def rows_hash(rows: Sequence[Mapping[str, object]]) -> str:
    """SHA-256 (hex) of the rows' content in order; keys in any order, source and line numbers left out."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


SplitT = TypeVar("SplitT", Fit, HeldOut)


def _take(rows: Rows[RowT, Fit], chosen: Sequence[int], split: type[SplitT]) -> Rows[RowT, SplitT]:
    return Rows(
        items=tuple(rows.items[index] for index in chosen),
        split=split,
        source=rows.source,
        lines=tuple(rows.lines[index] for index in chosen) if rows.lines else (),
    )


def _prompt_key(row: Mapping[str, object], seed: int) -> str:
    turns = cast("list[Message]", row["messages"] if "messages" in row else row["prompt"])
    said = [" ".join(turn["content"].casefold().split()) for turn in turns if turn["role"] == "user"]
    return hashlib.sha256(json.dumps([seed, said]).encode()).hexdigest()
