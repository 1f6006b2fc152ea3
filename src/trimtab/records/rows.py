"""Typed rows whose split is part of their type (DESIGN, principle 5: what steers may not judge).

``Rows[ChatRow, Fit]`` and ``Rows[ChatRow, HeldOut]`` are different types: observers and controls take ``Fit`` or
``Tune``, verifiers take ``HeldOut``, and a type checker refuses the mix-up. Row shapes are TRL's dataset formats
(https://huggingface.co/docs/trl/dataset_formats).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NotRequired, TypeVar, overload

from typing_extensions import TypedDict, override  # pydantic needs this TypedDict on Python 3.11


class Message(TypedDict):
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRow(TypedDict):
    """TRL "conversational language modelling" row: a whole conversation, the assistant turns are learned."""

    messages: list[Message]


class PromptCompletionRow(TypedDict):
    """TRL "prompt-completion" row, plain text."""

    prompt: str
    completion: str


class PromptRow(TypedDict):
    """TRL "prompt-only" row as chat turns; ``id`` names the row for graders."""

    prompt: list[Message]
    id: NotRequired[str]


class PreferenceRow(TypedDict):
    """TRL "preference" row with an explicit prompt, as chat turns."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


class Split:
    """Base of the split markers; never instantiated."""


class Fit(Split):
    """Rows that training and observers may use."""


class Tune(Split):
    """Rows on which settings may be chosen."""


class HeldOut(Split):
    """Rows that only verifiers may use."""


RowT_co = TypeVar("RowT_co", covariant=True)
SplitT_co = TypeVar("SplitT_co", bound=Split, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Rows(Sequence[RowT_co], Generic[RowT_co, SplitT_co]):
    """An immutable sequence of rows of one shape and one split.

    Attributes:
        items: The rows.
        split: The split marker class.
        source: Where they came from (path or generator), for messages and manifests.
        lines: 1-based place of each row in its source, same length as ``items``; empty where there is none.
    """

    items: tuple[RowT_co, ...]
    split: type[SplitT_co]
    source: str
    lines: tuple[int, ...] = ()

    @override
    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> RowT_co: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RowT_co, ...]: ...
    @override
    def __getitem__(self, index: int | slice) -> RowT_co | tuple[RowT_co, ...]:
        return self.items[index]

    @override
    def __iter__(self) -> Iterator[RowT_co]:
        return iter(self.items)
