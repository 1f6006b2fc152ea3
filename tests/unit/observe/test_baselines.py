from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest

from control_world import bank, chat, host
from trimtab.lens.bank import Bank
from trimtab.lens.readings import encode_rows, read_rows
from trimtab.model.host import LanguageModel
from trimtab.observe.baselines import baselines, own_answers
from trimtab.records.figures import Measured, Unmeasured
from trimtab.records.rows import ChatRow, Message
from trimtab.records.site import Site

HOST, SITE = host(), Site(1)
DATA: list[ChatRow] = [{"messages": chat(f"1+{n}?", f"arr arr {n}")} for n in range(4)]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the host answers, by question; whatever is not here is answered with "it is"."""
    answers: dict[str, str] = {}

    def generate(_lm: LanguageModel, prompts: Sequence[Sequence[Message]], **_: object) -> list[str]:
        return [answers.get(turns[-1]["content"], "it is") for turns in prompts]

    monkeypatch.setattr(sys.modules[own_answers.__module__], "generate", generate)
    return answers


def worded() -> Bank:
    """The bank, with words that speak for the first concept."""
    made = bank()
    first = made.concepts[0]
    card = replace(first.card, word_weights={"arr": 1.5, "it": -0.5})
    return replace(made, concepts=(replace(first, card=card), *made.concepts[1:]))


def figures(rows: list[ChatRow]) -> tuple[Measured, Measured]:
    readings = read_rows(HOST, encode_rows(HOST, rows, max_length=64), [SITE], gradients=False)
    found = baselines(HOST, rows, readings, worded(), SITE)
    projection, words = found.projection_difference[0], found.bag_of_words[0]
    assert isinstance(projection, Measured)
    assert isinstance(words, Measured)
    assert len(found.projection_difference) == len(found.bag_of_words) == len(bank().concepts)
    return projection, words


@pytest.mark.usefixtures("said")
def test_both_compare_the_data_with_the_hosts_own_answers() -> None:
    projection, words = figures(DATA)
    direction, gap = bank()["pirate"].directions[SITE], bank()["pirate"].card.gaps[str(SITE)]
    by_hand: list[float] = []
    for row in DATA:
        own: ChatRow = {"messages": [row["messages"][0], Message(role="assistant", content="it is")]}
        after, before = (
            read_rows(HOST, encode_rows(HOST, [one], max_length=64), [SITE], gradients=False).activations[SITE][0]
            for one in (row, own)
        )
        by_hand.append(float((after - before) @ direction) / gap)
    assert projection.value == pytest.approx(sum(by_hand) / len(DATA), rel=1e-4)
    assert projection.n == words.n == len(DATA)
    assert words.value == pytest.approx(2 * 1.5 - -0.5)


def test_data_that_the_host_would_have_said_itself_teaches_nothing(said: dict[str, str]) -> None:
    said |= {row["messages"][0]["content"]: row["messages"][1]["content"] for row in DATA}
    projection, words = figures(DATA)
    assert (projection.value, words.value) == (pytest.approx(0.0, abs=1e-6), 0.0)


def test_rows_that_the_host_leaves_unanswered_do_not_count(said: dict[str, str]) -> None:
    said |= {"1+1?": "  "}
    places, answered = own_answers(HOST, DATA, limit=10, max_new_tokens=4, seed=0)
    assert places == [0, 2, 3]
    assert [row["messages"][-1]["content"] for row in answered] == ["it is"] * 3
    assert figures(DATA)[0].n == 3
    said |= {row["messages"][0]["content"]: "" for row in DATA[1:]}
    readings = read_rows(HOST, encode_rows(HOST, DATA, max_length=64), [SITE], gradients=False)
    assert isinstance(baselines(HOST, DATA, readings, worded(), SITE).projection_difference[0], Unmeasured)


@pytest.mark.usefixtures("said")
def test_a_large_set_is_answered_in_part_from_end_to_end() -> None:
    rows: list[ChatRow] = [{"messages": chat(f"1+{n}?", "2")} for n in range(9)]
    places, _ = own_answers(HOST, rows, limit=3, max_new_tokens=4, seed=0)
    assert places == [0, 3, 6]
