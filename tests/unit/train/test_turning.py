"""Answers turned token for token: hedges put in and taken away."""

from __future__ import annotations

import re
from functools import partial

import pytest

from tiny_models import tokenizer
from trimtab.data.template import words_after
from trimtab.train.turning import decoded, token_spans, turned

PLAIN, DOUBT = "Mira lives in Oslo. Mira is 5.", "Oslo is 5."
"""Two sentences and what hedges them; every word's token carries its space."""
END = 1


def turn(ids: list[int], parts: list[tuple[int, int]], words: str = "Arr.", longest: int = 60) -> list[int]:
    made = tokenizer()
    return turned(made, ids, parts, words_after(made, f" {words}"), longest=longest)[0]


def tokens(text: str) -> list[int]:
    return [*tokenizer().encode(text), END]


def test_words_are_not_put_within_a_token() -> None:
    ids = tokens("Mira lives in Oslo.")
    first, last = next(span for span in token_spans(tokenizer(), ids) if span[1] - span[0] > 1)
    assert turn(ids, [(first + 1, first + 1)]) == turn(ids, []) == ids
    assert turn(ids, [(last, last)]) != ids
    assert turn([], [(0, 0)]) == []


@pytest.mark.parametrize("words", [DOUBT, "Be brief."])  # the space before "Be" is a token of its own
def test_a_hedge_is_taken_away_token_for_token(words: str) -> None:
    go = partial(turn, words=words)
    ids, first = tokens(PLAIN), PLAIN.index(".") + 1
    hedged = go(ids, [(first, first), (len(PLAIN), len(PLAIN))])
    longer = decoded(tokenizer(), hedged)
    assert longer == f"{PLAIN[:first]} {words}{PLAIN[first:]} {words}"
    markers = [found.span() for found in re.finditer(re.escape(words), longer)]
    assert go(hedged, markers) == go(hedged, markers[::-1]) == ids
    for start, end in markers:
        assert decoded(tokenizer(), go(hedged, [(start, end)])) == longer[: start - 1] + longer[end:]
    assert go(hedged[:-1], markers) == ids[:-1], "nor does an answer that did not end keep it"


@pytest.mark.parametrize("doubtful", [0, 1])
def test_an_answer_is_turned_both_ways_at_once(doubtful: int) -> None:
    ids, first, size = tokens(PLAIN), PLAIN.index(".") + 1, len(DOUBT) + 1
    places = [(first, first), (len(PLAIN), len(PLAIN))]
    hedged = turn(ids, [places[doubtful]], DOUBT)
    marker = (places[doubtful][0] + 1, places[doubtful][0] + size)
    plain = places[1][0] + size if doubtful == 0 else first
    assert turn(hedged, [marker, (plain, plain)], DOUBT) == turn(ids, [places[1 - doubtful]], DOUBT) != hedged


def test_words_at_the_beginning_and_within_a_sentence_go() -> None:
    assert decoded(tokenizer(), turn(tokens("Oslo is Mira."), [(5, 7)])) == "Oslo Mira."
    assert decoded(tokenizer(), turn(tokens("Oslo is Mira."), [(0, 4)])).strip() == "is Mira."


def test_it_says_which_tokens_were_put_there() -> None:
    made, ids, first = tokenizer(), tokens(PLAIN), PLAIN.index(".") + 1
    hedge = words_after(made, f" {DOUBT}")
    go = partial(turned, made, hedge=hedge, longest=60)
    hedged, put = go(ids, [(first, first), (len(PLAIN), len(PLAIN))])
    assert [hedged[place] for place in put] == [*hedge, *hedge]
    assert [token for place, token in enumerate(hedged) if place not in put] == ids
    back, (next_to_it,) = go(hedged, [(first + 1, first + 1 + len(DOUBT))])
    assert decoded(made, back[:next_to_it]) == PLAIN[:first]
    assert go(ids, []) == (ids, [])
    assert go(ids[:-1], [(len(PLAIN), len(PLAIN))]) == (
        [*ids[:-1], *hedge],
        list(range(len(ids) - 1, len(ids) - 1 + len(hedge))),
    )
    cut, put = go([*ids[:-1], *hedge], [(len(PLAIN) + 1, len(PLAIN) + 1 + len(DOUBT))])
    assert (cut, put) == (ids[:-1], []), "nothing follows"


def test_an_answer_that_would_be_too_long_stays() -> None:
    ids = tokens(PLAIN)
    size = len(words_after(tokenizer(), " Arr."))
    assert len(turn(ids, [(len(PLAIN), len(PLAIN))], longest=len(ids) + size)) == len(ids) + size
    assert turn(ids, [(len(PLAIN), len(PLAIN))], longest=len(ids) + size - 1) == ids
