"""Sampled answers turned into ones that chose otherwise, token for token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, takewhile
from operator import eq
from typing import cast

from transformers import PreTrainedTokenizerBase


def turned(
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    parts: Sequence[tuple[int, int]],
    hedge: Sequence[int],
    *,
    longest: int,
) -> tuple[list[int], list[int]]:
    """An answer without some parts, and with a hedge where a part is empty.

    Args:
        tokenizer: The student's.
        ids: Tokens of the answer.
        parts: First and past-the-last character of each part, in the text without special tokens.
        hedge: Tokens to put.
        longest: Most tokens of an answer.

    Returns:
        Its tokens, and the places of those that were put there: a hedge's, and what now follows directly on where a
        part has gone. An answer that would become too long stays as it is.
    """
    if not ids:
        return [], []
    text, spans, found = decoded(tokenizer, ids), token_spans(tokenizer, ids), list(ids)
    put = [False] * len(ids)
    for start, end in sorted(parts, reverse=True):
        places = [place for place, (first, last) in enumerate(spans) if first < end and last > start]
        if start < end and places and not text[spans[places[0]][0] : start].strip():
            first = places[0]
            while first and not text[slice(*spans[first - 1])].strip() and spans[first - 1][0] < spans[first - 1][1]:
                first -= 1  # a space before it that is a token of its own
            del found[first : places[-1] + 1], put[first : places[-1] + 1]
            put[first : first + 1] = [True] * len(put[first : first + 1])
        if start == end:
            place = next((place for place, (first, last) in enumerate(spans) if first >= end or last > end), None)
            place = len(ids) if place is None else place
            if place == len(ids) or spans[place][0] >= end:  # else a token reaches across the end
                found[place:place] = hedge
                put[place:place] = [True] * len(hedge)
    return (found, [place for place, was in enumerate(put) if was]) if len(found) <= longest else (list(ids), [])


def token_spans(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[tuple[int, int]]:
    """First and past-the-last character of each token in the decoded text without special tokens.

    The spans of tokens that are parts of one character overlap; those of special tokens are empty.
    """
    whole = decoded(tokenizer, ids)
    parts = [decoded(tokenizer, [token]) for token in ids]
    if "".join(parts) == whole:
        ends = list(accumulate(map(len, parts)))
        return list(zip([0, *ends[:-1]], ends, strict=True))
    texts = [decoded(tokenizer, ids[:count]) for count in range(len(ids) + 1)]
    done = [sum(takewhile(bool, map(eq, text, whole))) for text in texts]
    return [(done[place], min(len(texts[place + 1]), len(whole))) for place in range(len(ids))]


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of an answer, without special tokens."""
    return cast("str", tokenizer.decode(list(ids), skip_special_tokens=True))
