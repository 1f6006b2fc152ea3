from __future__ import annotations

import pytest

from trimtab.decide.human import question, refuse_to_guess, undecided, with_human_answer
from trimtab.errors import NeedsHumanError, ProtectedConceptError
from trimtab.records.ledger import Ledger, Ruling

OPEN = Ruling(
    concept="pirate", verdict="needs-human", reason="nothing clear", by="similarity", clause="Talk well.", margin=0.01
)
CLOSED = Ruling(concept="facts", verdict="learn", reason="wanted", by="rule")
PROTECTED = Ruling(concept="deception", verdict="protect", reason="kept", by="protected")


def test_only_open_rulings_wait() -> None:
    assert undecided(Ledger(rulings=(OPEN, CLOSED, PROTECTED))) == (OPEN,)


def test_an_answer_closes_the_ruling_and_keeps_what_led_to_it() -> None:
    answered = with_human_answer(OPEN, "avoid", "we talked about it")
    assert (answered.verdict, answered.by, answered.reason) == ("avoid", "human", "we talked about it")
    assert (answered.clause, answered.margin) == ("Talk well.", 0.01)
    assert undecided(Ledger(rulings=(OPEN, answered))) == ()


def test_a_protected_concept_is_not_lifted_in_passing() -> None:
    with pytest.raises(ProtectedConceptError, match=r"allow_protected: \[deception\]"):
        with_human_answer(PROTECTED, "learn")


def test_nothing_is_guessed() -> None:
    with pytest.raises(
        NeedsHumanError, match=r"1 ruling too close[\s\S]*pirate: nothing clear[\s\S]*Talk well\."
    ) as hit:
        refuse_to_guess(Ledger(rulings=(OPEN, CLOSED)))
    assert hit.value.exit_code == 8


def test_a_closed_ledger_passes() -> None:
    refuse_to_guess(Ledger(rulings=(CLOSED, PROTECTED)))


def test_a_question_names_the_clause_once() -> None:
    assert question(OPEN).count("Talk well.") == 1
