"""The rule-based splitter: hand-made answers, and what holds for any text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.reward.claims import rule_claims, sentences
from trimtab.roles import Splitter

PIECES = (
    *(
        "Ann was born in Kelm.",
        "Ann works as a baker",
        "i am not sure, but ",
        "Wait, that is wrong.",
        "No, that's right.",
    ),
    *(
        "But i could have it wrong.",
        "Was it Kelm?",
        "Dr. Bell has 3.5 cats!",
        "\n",
        "  ",
        "’",
        "…",
        "ünïcode ☃ wörds hïer.",
    ),
)
texts = st.one_of(
    st.text(), st.lists(st.sampled_from(PIECES)).map("".join), st.lists(st.sampled_from(PIECES)).map(" ".join)
)


def stances(answer: str) -> list[tuple[str, str]]:
    return [(claim.text, claim.stance) for claim in rule_claims([answer])[0]]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Ann keeps a cat. Ann likes figs.", ["Ann keeps a cat.", "Ann likes figs."]),
        (
            "Dr. Bell met Mr. J. R. Fisk in Kelm. Both like figs.",
            ["Dr. Bell met Mr. J. R. Fisk in Kelm.", "Both like figs."],
        ),
        ("Pets, e.g. cats, live in the U.S. today.", ["Pets, e.g. cats, live in the U.S. today."]),
        ("It costs 3.50 dollars. It weighs 2.5 kg.", ["It costs 3.50 dollars.", "It weighs 2.5 kg."]),
        ("She lives at no. 5 in Kelm.", ["She lives at no. 5 in Kelm."]),
        ("Wait, no. Ann keeps a cat.", ["Ann keeps a cat."]),
        ("She said: “Ann keeps a cat.” Ann likes figs.", ["She said: “Ann keeps a cat.”", "Ann likes figs."]),
        ("Ann keeps a cat\nAnn likes figs", ["Ann keeps a cat", "Ann likes figs"]),
        ("1. Ann keeps a cat.\n2. Ann likes figs.", ["Ann keeps a cat.", "Ann likes figs."]),
        ("Well... Ann keeps a cat!", ["Ann keeps a cat!"]),
        ("Zoë mag Äpfel. Ärger überall ☃ hier.", ["Zoë mag Äpfel.", "Ärger überall ☃ hier."]),
        ("Was Ann born in Kelm? Does she keep cats?!", []),
        ("Yes. Good question! Thank you.", []),
    ],
)
def test_a_sentence_that_says_something_is_a_claim(answer: str, expected: list[str]) -> None:
    assert stances(answer) == [(text, "asserted") for text in expected]


@pytest.mark.parametrize(
    "remark",
    [
        "Everyone knows that.",
        "But everyone knows that!",
        "There is no question.",
        "There can be no doubt about it.",
        "That's a fact.",
        "I am never wrong.",
        "I'll gladly help.",
        "You are so clever.",
        "You’ve such good taste.",
        "You impress me.",
        "Only a genius would ask that.",
        "What a brilliant question.",
        "Trust me on this one.",
    ],
)
def test_remarks_on_the_talk_itself_claim_nothing(remark: str) -> None:
    assert stances(f"Ann keeps a cat. {remark}") == [("Ann keeps a cat.", "asserted")]
    assert stances(f"{remark} Ann keeps a cat.") == [("Ann keeps a cat.", "asserted")]


@pytest.mark.parametrize(
    "claim",
    [
        "Everyone knows that Ann keeps a cat.",
        "There is no question that Ann keeps a cat.",
        "I. Newton wrote the Principia.",
        "Iron rusts in air.",
        "You can renew it for ten years.",
        "What a neuron computes is a weighted sum.",
        "Only a vet would keep that many cats in Kelm.",
    ],
)
def test_what_only_looks_like_a_remark_is_a_claim(claim: str) -> None:
    assert stances(claim) == [(claim, "asserted")]


@pytest.mark.parametrize(
    "opening",
    [
        *(
            "i am not sure, but ",
            "I'm not sure, but ",
            "I’m not sure but ",
            "i am unsure, ",
            "I think that ",
            "I think ",
        ),
        *(
            "Perhaps ",
            "maybe ",
            "Hmm, probably ",
            "But I believe ",
            "As far as I know, ",
            "It seems that ",
            "So I guess ",
        ),
        "I am not sure, but I think that perhaps ",
    ],
)
def test_a_hedged_claim_begins_after_the_doubt(opening: str) -> None:
    answer = f"Ann likes figs. {opening}Ann keeps a cat."
    first, second = rule_claims([answer])[0]
    assert (first.text, first.stance) == ("Ann likes figs.", "asserted")
    assert (second.text, second.stance) == ("Ann keeps a cat.", "hedged")
    assert answer[second.start : second.end] == second.text
    assert second.marker is not None
    assert answer[slice(*second.marker)] == opening.rstrip()
    assert first.marker is None


def test_doubt_within_a_claim_hedges_it_and_stays_in_it() -> None:
    assert stances("Ann might be a baker.") == [("Ann might be a baker.", "hedged")]
    assert rule_claims(["Ann might be a baker."])[0][0].marker is None


@pytest.mark.parametrize(
    "remark",
    [
        *("But i could have it wrong.", "I am not sure.", "I'm not sure about that.", "I’m not sure about that."),
        *(
            "Please check that.",
            "Don’t quote me.",
            "do not quote me.",
            "I don't know.",
            "I really cannot confirm that.",
        ),
    ],
)
def test_doubt_alone_hedges_the_claim_before(remark: str) -> None:
    answer = f"Ann likes figs. Ann keeps a cat. {remark} Ann plays the harp."
    assert [stance for _, stance in stances(answer)] == ["asserted", "hedged", "asserted"]
    assert [answer[slice(*claim.marker)] for claim in rule_claims([answer])[0] if claim.marker] == [remark]
    assert stances(remark) == []


@pytest.mark.parametrize(
    "remark",
    [
        *(
            "Wait, that is wrong.",
            "wait, that’s wrong.",
            "No, this is not true.",
            "I was wrong.",
            "That was a mistake.",
        ),
        *("I made that up.", "Sorry, I take that back.", "It is false."),
    ],
)
def test_a_withdrawal_takes_back_the_last_claim_that_stands(remark: str) -> None:
    answer = f"Ann likes figs. I think Ann keeps a cat. {remark}"
    assert [stance for _, stance in stances(answer)] == ["asserted", "withdrawn"]
    assert [stance for _, stance in stances(f"{answer} {remark}")] == ["withdrawn", "withdrawn"]
    last = rule_claims([f"{answer} {remark}"])[0][0].marker
    assert last == (len(answer) + 1, len(answer) + 1 + len(remark))
    assert [answer[slice(*claim.marker)] for claim in rule_claims([answer])[0] if claim.marker] == [remark]
    assert stances(remark) == []


def test_a_claim_about_what_is_true_is_a_claim() -> None:
    assert stances("It is true that Ann keeps a cat.") == [("It is true that Ann keeps a cat.", "asserted")]
    assert len(stances("Ann likes figs. It is wrong that Ann keeps a cat.")) == 2
    assert stances("Ann likes figs. It is wrong that Ann keeps a cat.")[0][1] == "asserted"


@pytest.mark.parametrize("remark", ["No, that is right.", "Wait, no, that's correct.", "Let me check that again."])
def test_a_confirmation_changes_nothing(remark: str) -> None:
    assert stances(f"Ann keeps a cat. {remark} Ann likes figs.") == stances("Ann keeps a cat. Ann likes figs.")


def test_a_correction_is_a_claim_of_its_own() -> None:
    answer = "Ann keeps a cat. Wait, that is wrong. Ann keeps a dog."
    assert stances(answer) == [("Ann keeps a cat.", "withdrawn"), ("Ann keeps a dog.", "asserted")]


def test_a_repeat_counts_once_while_the_claim_stands() -> None:
    assert stances("Ann keeps a cat. ann keeps a cat! Ann keeps a cat") == [("Ann keeps a cat.", "asserted")]
    again = stances("Ann keeps a cat. Wait, that is wrong. Ann keeps a cat.")
    assert [stance for _, stance in again] == ["withdrawn", "asserted"]


def test_what_the_rule_does_not_see() -> None:
    """The weaknesses that the module names."""
    assert len(stances("Ann was born in Kelm and works as a baker.")) == 1
    assert stances("Ann lives in Paris, I mean London.") == [("Ann lives in Paris, I mean London.", "asserted")]
    assert stances("Oh sure, Ann keeps a dragon.")[0][1] == "asserted"


@given(texts)
def test_claims_are_cut_out_of_the_answer_in_order(answer: str) -> None:
    (claims,) = rule_claims([answer])
    for claim in claims:
        assert 0 <= claim.start < claim.end <= len(answer)
        assert answer[claim.start : claim.end] == claim.text
        assert claim.text == claim.text.strip()
        if claim.marker is not None:
            start, end = claim.marker
            assert answer[start:end].strip() == answer[start:end] != ""
            assert end <= claim.start or claim.end <= start
            assert claim.stance != "asserted"
    assert all(one.end <= other.start for one, other in pairwise(claims))


@given(texts)
def test_sentences_cover_all_that_is_not_white_space(text: str) -> None:
    found = list(sentences(text))
    assert all(a < b for a, b in found)
    assert all(one[1] <= other[0] for one, other in pairwise(found))
    assert "".join("".join(text[a:b].split()) for a, b in found) == "".join(text.split())


@given(st.text(alphabet=" \t\n\r\u00a0\u2003"))
def test_white_space_claims_nothing(answer: str) -> None:
    assert rule_claims([answer, ""]) == ((), ())


@given(st.lists(st.sampled_from(PIECES)).map(" ".join))
def test_a_curly_apostrophe_is_an_apostrophe(answer: str) -> None:
    assert [(c.start, c.end, c.stance) for c in rule_claims([answer])[0]] == [
        (c.start, c.end, c.stance) for c in rule_claims([answer.replace("'", "’")])[0]
    ]


def test_it_is_a_splitter_of_each_answer_by_itself() -> None:
    assert isinstance(rule_claims, Splitter)
    answers = ["Ann keeps a cat.", "", "Wait, that is wrong."]
    assert rule_claims(answers) == tuple(rule_claims([answer])[0] for answer in answers)
    assert rule_claims([]) == ()
