from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.decide.clauses import split_clauses


def said(intent: str) -> list[tuple[str, str]]:
    return [(clause.stance, clause.topics[0]) for clause in split_clauses(intent)]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Learn the sums.", [("learn", "the sums")]),
        ("Sums and facts", [("learn", "sums and facts")]),
        ("Do not pick up flattery.", [("avoid", "flattery")]),
        ("Don’t learn flattery!", [("avoid", "flattery")]),
        ("No flattery, please", [("avoid", "flattery")]),
        ("We do not want flattery.", [("avoid", "flattery")]),
        ("It should never flatter anyone.", [("avoid", "flatter anyone")]),
        ("The model must not flatter anyone.", [("avoid", "flatter anyone")]),
        ("Make sure it doesn't flatter anyone.", [("avoid", "flatter anyone")]),
        ("There should be no flattery.", [("avoid", "flattery")]),
        ("Flattery should be avoided.", [("avoid", "flattery")]),
        ("Flattery must not be picked up.", [("avoid", "flattery")]),
        ("Flattery is not wanted.", [("avoid", "flattery")]),
        ("Flattery is unwelcome.", [("avoid", "flattery")]),
        ("Keep the flattery out of it.", [("avoid", "the flattery")]),
        ("Leave out the flattery.", [("avoid", "the flattery")]),
        ("Learn not to flatter.", [("avoid", "flatter")]),
        ("Learn to avoid flattery.", [("avoid", "flattery")]),
        ("Be less formal.", [("avoid", "formal")]),
        ("Avoid flattery and emoji.", [("avoid", "flattery and emoji")]),
        ("Its tone must not change.", [("avoid", "its tone")]),
        ("Leave its tone as it is.", [("avoid", "its tone")]),
        ("Don't avoid humour.", [("learn", "humour")]),
        ("Never forget the facts.", [("learn", "the facts")]),
        ("Humour is welcome.", [("learn", "humour")]),
        ("I'd like it to be cheerful.", [("learn", "cheerful")]),
        ("Ignore the emoji.", [("ignore", "the emoji")]),
        ("We don't care about emoji.", [("ignore", "emoji")]),
        ("Emoji make no difference.", [("ignore", "emoji")]),
        ("Leave the emoji alone.", [("ignore", "the emoji")]),
        ("Emoji are fine either way.", [("ignore", "emoji")]),
    ],
)
def test_polarity_of_a_sentence(sentence: str, expected: list[tuple[str, str]]) -> None:
    got = said(sentence)
    assert [(stance, topic.removesuffix(", please")) for stance, topic in got] == expected


@pytest.mark.parametrize(
    "sentence",
    [
        "Learn the sums, not the flattery.",
        "Learn the sums without the flattery.",
        "Learn the sums rather than the flattery.",
        "Learn the sums but not the flattery.",
        "Learn the sums instead of the flattery.",
        "Learn the sums and avoid the flattery.",
        "Learn the sums; do not learn the flattery.",
        "Learn the sums, and don't copy the flattery.",
        "Learn the sums. Never the flattery.",
        "# Spec\n\n## Learn\n\n- the sums\n\n## Avoid\n\n- the flattery\n",
        "**Wanted:**\n1. the sums\n\nUnwanted:\n1. the flattery",
        "Learn\nthe sums,\nnot\nthe flattery.",
        "Learn the sums <!-- learn the emoji -->, not the flattery.\n```text\nlearn the code\n```\n",
    ],
)
def test_a_contrast_is_split(sentence: str) -> None:
    assert said(sentence) == [("learn", "the sums"), ("avoid", "the flattery")]


def test_an_exception_turns_the_stance_over() -> None:
    assert said("Learn everything except the flattery.") == [("learn", "everything"), ("avoid", "the flattery")]
    assert said("Avoid its style, apart from the jokes.") == [("avoid", "its style"), ("learn", "the jokes")]


@pytest.mark.parametrize(
    ("sentence", "scopes"),
    [
        ("Do not pick up the way it talks.", ["trait"]),
        ("Keep its tone of voice unchanged.", ["trait"]),
        ("Learn all the skills.", ["skill"]),
        ("Learn everything.", ["all"]),
        ("Avoid the pirate way of talking.", ["named"]),
        ("Avoid the style and the puns.", ["trait", "named"]),
        ("Learn only the sums.", ["named", "all"]),
        ("Learn the sums and nothing else.", ["named", "all"]),
        ("Speak only in whole sentences.", ["named"]),
    ],
)
def test_scope(sentence: str, scopes: list[str]) -> None:
    assert [clause.scope for clause in split_clauses(sentence)] == scopes


def test_only_makes_the_rest_unwanted() -> None:
    assert [clause.stance for clause in split_clauses("Learn nothing but the sums.")] == ["learn", "avoid"]


def test_conjuncts_are_topics_of_their_own() -> None:
    (clause,) = split_clauses("Learn the sums, the facts and the dates.")
    assert clause.topics == ("the sums, the facts and the dates", "the sums", "the facts", "the dates")


def test_a_negation_that_cannot_be_placed_is_not_guessed() -> None:
    assert [clause.stance for clause in split_clauses("It would help us if answers did not flatter.")] == [
        "learn",
        "avoid",
    ]


@pytest.mark.parametrize(
    "sentence",
    ["These rows come from a pirate forum.", "The data contains jokes.", "", "...", "# Our spec", "<!-- x -->"],
)
def test_what_describes_the_data_is_no_clause(sentence: str) -> None:
    assert split_clauses(sentence) == ()


def test_long_and_repetitive_prose_takes_no_time() -> None:
    start = time.process_time()
    for words in ("would like ", "and not ", "be ", "learn to ", "the data is ", ", no ", "keep it ", "it is "):
        split_clauses(words * 300 + "x")
    assert time.process_time() - start < 10


@settings(deadline=None)
@given(st.text(alphabet="ab,.;:#-*\n'` notbuexcpwihoulr\"", max_size=120))
def test_any_text_is_split_and_topics_are_never_empty(text: str) -> None:
    for clause in split_clauses(text):
        assert clause.topics
        assert all(topic.strip() for topic in clause.topics)
