"""What is left for a human: the open questions, an answer put on record, and the refusal to guess one."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

from trimtab.errors import NeedsHumanError, ProtectedConceptError
from trimtab.records.ledger import Ledger, Ruling

Answer: TypeAlias = Literal["learn", "avoid", "ignore"]


def undecided(ledger: Ledger) -> tuple[Ruling, ...]:
    """Rulings in force that wait for a human, in ledger order."""
    return ledger.with_verdict("needs-human")


def question(ruling: Ruling) -> str:
    """One open question in plain words, for the command line and for error messages."""
    clause = f'; closest clause: "{ruling.clause}"' if ruling.clause and ruling.clause not in ruling.reason else ""
    return f"{ruling.concept}: {ruling.reason}{clause}"


def with_human_answer(ruling: Ruling, verdict: Answer, reason: str = "answered by a human") -> Ruling:
    """The ruling that a human makes in place of an earlier one; clause and margin stay on record.

    Raises:
        ProtectedConceptError: If the concept is protected: that is lifted in the spec, not in passing.
    """
    if ruling.verdict == "protect" and verdict != "ignore":
        raise ProtectedConceptError(
            f"the answer {verdict!r} asks to train on the protected concept {ruling.concept!r}",
            allowed="no answer: the ruling is protect",
            todo=f"override in the spec with allow_protected: [{ruling.concept}]",
        )
    return replace(ruling, verdict=verdict, reason=reason, by="human", made_at="")


def refuse_to_guess(ledger: Ledger) -> None:
    """Stop where nobody is there to answer (``--yes``).

    Raises:
        NeedsHumanError: Lists every open concept with its closest clause; not raised when nothing is open.
    """
    waiting = undecided(ledger)
    if waiting:
        listed = "".join(f"\n  {question(ruling)}" for ruling in waiting)
        raise NeedsHumanError(
            f"{len(waiting)} ruling{'s' if len(waiting) > 1 else ''} too close to call:{listed}",
            allowed="a spec that says of each of these concepts whether it is wanted",
            todo="add a rule to the spec for each (rules: {CONCEPT: learn, avoid or ignore}), or run without --yes",
        )
