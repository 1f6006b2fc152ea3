"""Encoded conversations to padded tensors, alone or in length-sorted batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trimtab.errors import UsageError
from trimtab.records.training import IGNORED, Encoded


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A right-padded batch; the three tensors are int64 and of one shape.

    Attributes:
        input_ids: Token ids, ``pad_id`` after the end of a row.
        attention_mask: 1 on tokens, 0 on padding.
        labels: ``input_ids`` on learned tokens, ``IGNORED`` elsewhere; not shifted.
    """

    input_ids: Int[Tensor, "batch token"]
    attention_mask: Int[Tensor, "batch token"]
    labels: Int[Tensor, "batch token"]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            labels=self.labels.to(device),
        )


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with: the tokenizer's own, else its end-of-text, else 0; masked and unlabelled either way."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0


def collate(encoded: Sequence[Encoded], pad_id: int) -> Batch:
    """Pad conversations on the right to the longest of them.

    Args:
        encoded: At least one conversation.
        pad_id: Token id of the padding.

    Raises:
        UsageError: If there is none.
    """
    if not encoded:
        raise UsageError("a batch of no rows", allowed="at least one row", todo="pass rows")
    shape = (len(encoded), max(len(row.input_ids) for row in encoded))
    input_ids = torch.full(shape, pad_id, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED, dtype=torch.int64)
    for index, row in enumerate(encoded):
        length = len(row.input_ids)
        input_ids[index, :length] = torch.tensor(row.input_ids, dtype=torch.int64)
        attention_mask[index, :length] = 1
        labels[index, :length] = torch.tensor(row.labels, dtype=torch.int64)
    return Batch(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


def batches(
    encoded: Sequence[Encoded], pad_id: int, *, batch_size: int | None = None, max_tokens: int | None = None
) -> Iterator[tuple[tuple[int, ...], Batch]]:
    """Every conversation once, longest first, so that a batch holds rows of like length and memory peaks at the start.

    Args:
        encoded: The conversations.
        pad_id: Token id of the padding.
        batch_size: Most rows in a batch.
        max_tokens: Most tokens in a batch, padding counted; a row longer than that makes a batch of its own.

    Yields:
        Positions in ``encoded`` and the batch made of them, in the same order.

    Raises:
        UsageError: If neither limit is given, or one is not positive.
    """
    limits = [limit for limit in (batch_size, max_tokens) if limit is not None]
    if not limits or min(limits) < 1:
        raise UsageError(
            f"batch_size={batch_size}, max_tokens={max_tokens}",
            allowed="at least one of the two, positive",
            todo="pass for example batch_size=32",
        )
    return _batches(encoded, pad_id, batch_size or len(encoded), max_tokens)


def _batches(
    encoded: Sequence[Encoded], pad_id: int, batch_size: int, max_tokens: int | None
) -> Iterator[tuple[tuple[int, ...], Batch]]:
    order = sorted(range(len(encoded)), key=lambda index: (-len(encoded[index].input_ids), index))
    while order:
        longest = max(1, len(encoded[order[0]].input_ids))
        size = batch_size if max_tokens is None else max(1, min(batch_size, max_tokens // longest))
        taken, order = tuple(order[:size]), order[size:]
        yield taken, collate([encoded[index] for index in taken], pad_id)
