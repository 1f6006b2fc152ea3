from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from trimtab.data.batches import batches, collate, pad_id
from trimtab.errors import UsageError
from trimtab.records.training import IGNORED, Encoded


def row(length: int, source: int = 0) -> Encoded:
    ids = tuple(range(10, 10 + length))
    return Encoded(input_ids=ids, labels=(IGNORED, *ids[1:]) if ids else (), source=source)


def test_collate_pads_on_the_right() -> None:
    batch = collate([row(3), row(1)], pad_id=7)
    assert batch.input_ids.tolist() == [[10, 11, 12], [10, 7, 7]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels.tolist() == [[IGNORED, 11, 12], [IGNORED] * 3]
    assert {batch.input_ids.dtype, batch.attention_mask.dtype, batch.labels.dtype} == {torch.int64}
    assert batch.to("meta").labels.device.type == "meta"


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="a batch of no rows"):
        collate([], pad_id=0)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 30), max_size=25),
    batch_size=st.none() | st.integers(1, 8),
    max_tokens=st.none() | st.integers(1, 90),
)
def test_every_row_comes_once_and_limits_hold(
    lengths: list[int], batch_size: int | None, max_tokens: int | None
) -> None:
    encoded = [row(length, index) for index, length in enumerate(lengths)]
    if batch_size is None and max_tokens is None:
        with pytest.raises(UsageError, match="at least one of the two"):
            batches(encoded, 0)
        return
    seen: list[int] = []
    widths: list[int] = []
    for indices, batch in batches(encoded, 0, batch_size=batch_size, max_tokens=max_tokens):
        assert [int(n) for n in batch.attention_mask.sum(1)] == [lengths[index] for index in indices]
        assert batch_size is None or len(indices) <= batch_size
        assert max_tokens is None or batch.input_ids.numel() <= max_tokens or len(indices) == 1
        widths.append(batch.input_ids.shape[1])
        seen.extend(indices)
    assert sorted(seen) == list(range(len(lengths)))
    assert widths == sorted(widths, reverse=True)


def test_limits_must_be_positive() -> None:
    with pytest.raises(UsageError, match="batch_size=0"):
        batches([row(2)], 0, batch_size=0)


def test_pad_id_falls_back(
    plain_tokenizer: PreTrainedTokenizerFast, prefixing_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert pad_id(plain_tokenizer) == plain_tokenizer.pad_token_id
    assert prefixing_tokenizer.pad_token_id is None
    assert pad_id(prefixing_tokenizer) == prefixing_tokenizer.eos_token_id
