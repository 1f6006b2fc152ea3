"""Kinds of mistake in judged answers, and the order that puts the worst first: pure functions of the records."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from trimtab.records.claims import JudgedAnswer, JudgedClaim

Kind: TypeAlias = Literal["confident", "caught", "unread", "lost", "new", "fixed", "silent", "right"]

KINDS: Final[Mapping[Kind, tuple[str, str]]] = MappingProxyType(
    {
        "confident": ("confident error", "a wrong claim is asserted, and the probe reads it as likely right"),
        "caught": ("caught but kept", "a wrong claim was flagged or read as likely wrong, and is still asserted"),
        "unread": ("unread error", "a wrong claim is asserted that was neither read nor flagged"),
        "lost": ("right but retracted or hedged", "a right claim is hedged or withdrawn"),
        "new": ("new error", "right before, wrong in this stage"),
        "fixed": ("fixed", "wrong before, right or hedged in this stage"),
        "silent": ("nothing stated", "no claim stands in the answer"),
        "right": ("all right", "every claim that stands is right and asserted, and no right one was lost"),
    }
)
"""Name and meaning of every kind, most pressing first. An answer may be of several kinds, or of none."""

LIKELY: Final = 0.5
"""Probability from which the probe reads a claim as likely right."""


def is_error(claim: JudgedClaim) -> bool:
    """Whether a wrong claim stands as a fact."""
    return claim.truth == "wrong" and claim.stance == "asserted"


def is_lost(claim: JudgedClaim) -> bool:
    """Whether a right claim does not stand as a fact."""
    return claim.truth == "right" and claim.stance != "asserted"


def error_kinds(claim: JudgedClaim) -> frozenset[Kind]:
    """How an error came to stand; both ``confident`` and ``caught`` where a flagged claim is read as likely right."""
    if not is_error(claim):
        return frozenset()
    found: set[Kind] = set()
    if claim.probability is not None and claim.probability >= LIKELY:
        found.add("confident")
    if claim.action is not None or (claim.probability is not None and claim.probability < LIKELY):
        found.add("caught")
    return frozenset(found or {"unread"})


def kinds_of(answer: JudgedAnswer, base: JudgedAnswer | None = None) -> frozenset[Kind]:
    """Every kind that an answer is of.

    Args:
        answer: The answer.
        base: The answer to the same question before training; without it nothing is ``new`` or ``fixed``.
    """
    found: set[Kind] = {kind for claim in answer.claims for kind in error_kinds(claim)}
    standing = [claim for claim in answer.claims if claim.stance != "withdrawn"]
    if any(map(is_lost, answer.claims)):
        found.add("lost")
    if not standing:
        found.add("silent")
    elif "lost" not in found and all(claim.truth == "right" and claim.stance == "asserted" for claim in standing):
        found.add("right")
    if base is not None:
        if _is_right(base) and _is_wrong(answer):
            found.add("new")
        if _is_wrong(base) and (_is_right(answer) or _is_hedged(answer)):
            found.add("fixed")
    return frozenset(found)


def _is_wrong(answer: JudgedAnswer) -> bool:
    return any(map(is_error, answer.claims))


def _is_right(answer: JudgedAnswer) -> bool:
    """A right claim is asserted and no wrong one is."""
    asserted = any(claim.truth == "right" and claim.stance == "asserted" for claim in answer.claims)
    return asserted and not _is_wrong(answer)


def _is_hedged(answer: JudgedAnswer) -> bool:
    """Something is said with doubt and nothing wrong as a fact; silence is not a hedge."""
    return any(claim.stance == "hedged" for claim in answer.claims) and not _is_wrong(answer)


def severity(answer: JudgedAnswer) -> tuple[int, float, int, str]:
    """Sorting key, the worst first.

    Confident errors come first, the one that the probe believes most at the top; then the other errors, in the same
    order and those that were never read last; then answers with right claims that were flagged, those that lost one
    before those that kept all; then the rest. Ties are broken by the number of such claims, then by the question.
    """
    errors = [claim for claim in answer.claims if is_error(claim)]
    if errors:
        read = max((claim.probability for claim in errors if claim.probability is not None), default=-1.0)
        return (0 if read >= LIKELY else 1, -read, -len(errors), answer.id)
    flagged = [claim for claim in answer.claims if claim.truth == "right" and claim.action is not None]
    if flagged:
        return (2, -float(any(map(is_lost, flagged))), -len(flagged), answer.id)
    return (3, 0.0, 0, answer.id)
