"""Which tokens of a conversation are read: by role, by span of characters, by regular expression.

Rows are tokenised as ``data/template.py`` does it, so that positions agree with ``encode``. A token is selected when
it overlaps the chosen characters: of a character that is spread over several tokens (an emoji in a byte-level
tokenizer) all of them are. What the chat template puts around a turn (headers, an empty thought) is never selected,
and the end-of-turn mark only on request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias, cast

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from trimtab.data.template import Layout, Span, lay_out, messages_of, tokenise
from trimtab.errors import DataError, Fault, ModelError, RefusedError, UsageError
from trimtab.records.config import Settings
from trimtab.records.lens import Selected
from trimtab.records.rows import ChatRow, Message

Role: TypeAlias = Literal["assistant", "user", "system", "any"]
Place: TypeAlias = Span | str
"""Characters ``[start, end)`` of a message, or a piece of its text that stands in it exactly once."""


class Selection(Settings):
    """Which tokens of a row are read."""

    role: Role = Field(default="assistant", description="whose turns; `any`: every turn")
    regex: str | None = Field(default=None, description="only what matches this inside the content of those turns")
    tokens: Literal["all", "last"] = Field(default="all", description="all selected tokens of a row, or its last one")
    end_of_turn: bool = Field(
        default=False,
        description="also the mark that closes a turn in which something is selected: what the model learns to say "
        "after an answer; behind other turns the control token that follows, if there is one",
    )
    empty: Literal["refuse", "skip"] = Field(
        default="refuse", description="rows in which nothing is selected: refuse the data, or leave them out"
    )


def select_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[ChatRow],
    selection: Selection,
    *,
    max_length: int,
    spans: Sequence[Place | None] = (),
    file: str = "<rows>",
    lines: Sequence[int] = (),
) -> tuple[Selected, ...]:
    """Tokenise rows and choose tokens of each.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        rows: Conversations.
        selection: Whose words, and which of them.
        max_length: Most tokens in a row; a longer one is an error, never cut.
        spans: Per row a place in the last message of ``selection.role``, or ``None`` for the whole selection; empty:
            none for any row.
        file: Source of the rows, for messages (``Rows.source``).
        lines: 1-based line of each row (``Rows.lines``); without it, rows are counted.

    Returns:
        One entry per row, in row order; fewer with ``empty="skip"``.

    Raises:
        UsageError: If the expression is not valid, or spans do not fit the rows or come together with an expression.
        ModelError: If the tokenizer has no chat template or does not say which characters a token covers.
        DataError: Carries one fault for every row that is too long, that the template refuses, whose span is absent or
            ambiguous, or that selects no token.
    """
    pattern = _pattern(selection, spans, len(rows))
    if not tokenizer.is_fast:
        raise ModelError(
            f"the {type(tokenizer).__name__} does not say which characters a token covers",
            allowed="a fast tokenizer (tokenizer.json)",
            todo="load the model with its tokenizer.json, or convert the tokenizer with transformers",
        )
    control = frozenset(number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    chosen: list[Selected] = []
    faults: list[Fault] = []
    for source, row in enumerate(rows):
        try:
            messages = messages_of(row)
            layout = lay_out(tokenizer, messages, max_length=max_length)
            wanted = _wanted(messages, layout, selection, pattern, spans[source] if spans else None)
            positions = _positions(tokenizer, layout, wanted, _marks(layout, wanted, selection, tokenizer), control)
            if positions:
                kept = positions if selection.tokens == "all" else positions[-1:]
                chosen.append(Selected(input_ids=layout.input_ids, positions=kept, source=source))
            elif selection.empty == "refuse":
                raise RefusedError(f"no token is selected ({_said(selection)})")
        except RefusedError as error:
            line = lines[source] if lines else source + 1
            faults.append(Fault(file=file, line=line, reason=str(error)))
    if faults or not chosen:
        raise DataError(
            f"{file}: tokens cannot be selected in {len(faults)} of {len(rows)} rows"
            if faults
            else f"{file}: none of {len(rows)} rows has a selected token ({_said(selection)})",
            allowed="rows that fit max_length, that the chat template can express and in which a token is selected",
            todo="correct the listed rows, widen the selection, or leave out rows without a selected token "
            '(--skip-empty; empty="skip" in Python)',
            faults=faults,
        )
    return tuple(chosen)


def _pattern(selection: Selection, spans: Sequence[Place | None], rows: int) -> re.Pattern[str] | None:
    if spans and len(spans) != rows:
        raise UsageError(
            f"{len(spans)} spans for {rows} rows", allowed="one per row", todo="pass None for rows without"
        )
    if selection.regex is None:
        return None
    if spans:
        raise UsageError("spans and a regular expression", allowed="one of the two", todo="leave one of them out")
    try:
        return re.compile(selection.regex)
    except re.error as error:
        raise UsageError(
            f"regular expression {selection.regex!r}: {error}",
            allowed="a Python regular expression",
            todo="correct it; re.escape makes one of plain text",
        ) from error


def _said(selection: Selection) -> str:
    turns = "any turn" if selection.role == "any" else f"{selection.role} turns"
    return turns if selection.regex is None else f"{selection.regex!r} in {turns}"


def _wanted(
    messages: Sequence[Message],
    layout: Layout,
    selection: Selection,
    pattern: re.Pattern[str] | None,
    place: Place | None,
) -> list[tuple[int, Span]]:
    """Turns with the characters of the text that are wanted in each."""
    turns = [index for index, turn in enumerate(messages) if selection.role in ("any", turn["role"])]
    if place is not None:
        if not turns:
            raise RefusedError(f"it has a span, but no {selection.role} turn")
        return [(turns[-1], _in_text(messages, layout, turns[-1], _located(messages[turns[-1]], place)))]
    if pattern is None:
        return [(turn, layout.contents[turn]) for turn in turns]
    return [
        (turn, _in_text(messages, layout, turn, match.span()))
        for turn in turns
        for match in pattern.finditer(messages[turn]["content"])
        if match.end() > match.start()
    ]


def _located(turn: Message, place: Place) -> Span:
    said = turn["content"]
    if isinstance(place, str):
        start = said.find(place)
        if start < 0 or not place:
            raise RefusedError(f"the last {turn['role']} turn does not hold the span {place!r}")
        if said.find(place, start + 1) >= 0:
            raise RefusedError(
                f"the span {place!r} stands more than once in the last {turn['role']} turn; give its characters instead"
            )
        return start, start + len(place)
    start, end = place
    if not 0 <= start < end <= len(said):
        raise RefusedError(f"characters {start} to {end} of a {turn['role']} turn of {len(said)} characters")
    return start, end


def _in_text(messages: Sequence[Message], layout: Layout, turn: int, span: Span) -> Span:
    """Characters of a turn's content as characters of the rendered text; white space that was trimmed has none."""
    first, last = layout.contents[turn]
    trimmed = messages[turn]["content"].find(layout.text[first:last])
    start, end = (min(max(first + place - trimmed, first), last) for place in span)
    return start, end


def _marks(
    layout: Layout, wanted: Sequence[tuple[int, Span]], selection: Selection, tokenizer: PreTrainedTokenizerBase
) -> list[Span]:
    """The end-of-turn marks of the turns in which something is wanted."""
    if not selection.end_of_turn:
        return []
    control = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    marks: list[Span] = []
    for turn in sorted({turn for turn, _ in wanted}):
        start, end = layout.contents[turn]
        closing = next((last for first, last in layout.answers if first <= start and end < last), end)
        rest = layout.text[end:].lstrip()
        begin = len(layout.text) - len(rest)
        follows = max((token for token in control if rest.startswith(token)), key=len, default="")
        marks.append((end, closing) if closing > end else (begin, begin + len(follows)))
    return marks


def _positions(
    tokenizer: PreTrainedTokenizerBase,
    layout: Layout,
    wanted: Iterable[tuple[int, Span]],
    marks: Sequence[Span],
    control: frozenset[int],
) -> tuple[int, ...]:
    """Tokens that overlap what is wanted; a control token is only ever part of a mark."""
    words, closing = bytearray(len(layout.text)), bytearray(len(layout.text))
    for _, (first, last) in wanted:
        words[first:last] = b"\1" * (last - first)
    for first, last in marks:
        closing[first:last] = b"\1" * (last - first)
    tokens = zip(layout.input_ids, _offsets(tokenizer, layout), strict=True)
    return tuple(
        position
        for position, (token, (first, last)) in enumerate(tokens)
        if closing.find(1, first, last) >= 0 or (token not in control and words.find(1, first, last) >= 0)
    )


def _offsets(tokenizer: PreTrainedTokenizerBase, layout: Layout) -> list[Span]:
    """Characters of the text that each token covers; what a tokenizer trims off a token belongs to the next one."""
    offsets: list[Span] = []
    for base, end in pairwise([*layout.pieces, len(layout.text)]):
        if base == end:
            continue
        found = tokenise(tokenizer, layout.text[base:end], offsets=True)
        reach = base
        for first, last in cast("list[Span]", found["offset_mapping"]):
            start, reach = min(base + first, reach), max(base + last, reach)
            offsets.append((start, reach))
    return offsets
