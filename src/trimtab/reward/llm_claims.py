"""Claims found by a language model: it quotes them, and where they stand is computed here."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import partial
from typing import Final, LiteralString

from pydantic import BaseModel, ConfigDict

from trimtab.llm.client import Client, Reply
from trimtab.llm.prompts import Data, Request
from trimtab.llm.replies import parse_json
from trimtab.records.claims import Claim, Stance
from trimtab.records.llm import Failure
from trimtab.roles import Splitter

SPLIT: Final = "split an answer"
"""Purpose of the calls in the account."""

_INSTRUCTIONS: Final[LiteralString] = (
    "You are given an answer. List every factual claim in it: each statement that is true or false by itself, such as "
    "a date, a place, an amount, a relation. Quote each claim exactly, character for character, as one unbroken piece "
    "of the answer, as short as it can be while it still says what it claims; pieces do not overlap. Leave out "
    "questions, advice, opinions and remarks about the answer itself. Say how the answer stands to each claim: "
    "asserted (said as a fact), hedged (said with a mark of doubt), or withdrawn (the answer itself takes it back)."
)
_STOP: Final = re.compile(r"[.!?](?=\s|$)")
_logger = logging.getLogger(__name__)


class _Quote(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str
    stance: Stance


class _Quotes(BaseModel):
    model_config = ConfigDict(extra="forbid")

    claims: list[_Quote]


class LanguageModelSplitter:
    """Asks a language model for the claims of each answer (a ``Splitter``).

    One answer per request, as ``Data``: an answer that gives orders can only touch its own claims. What the model
    quotes is looked up in the answer, in the order in which it is quoted; a quote that does not stand there word for
    word is dropped and counted, never repaired. Of claims that overlap those that end first are kept, which keeps the
    most and prefers single statements to the sentence around them. An answer whose call fails gets the claims of the
    fallback, and is counted and logged.

    Args:
        client: The endpoint, with its budget and cache; costs stand in its account under ``split an answer``.
        fallback: Splits answers whose call failed, such as ``claims.rule_claims``.

    Attributes:
        invented: Quotes so far that do not stand in their answer.
        overlapping: Claims so far that were dropped for another one.
        failed: Answers so far that the fallback split.
    """

    def __init__(self, client: Client, fallback: Splitter) -> None:
        self.invented = 0
        self.overlapping = 0
        self.failed = 0
        self._client = client
        self._fallback = fallback

    def __call__(self, answers: Sequence[str]) -> tuple[tuple[Claim, ...], ...]:
        """As ``Splitter``; answers without a word are not sent.

        Raises:
            BudgetError: If the budget does not allow the next call; replies that were paid for are kept.
            UsageError: If the endpoint refuses the key, the model or the address.
        """
        said = [place for place, answer in enumerate(answers) if answer.strip()]
        replies = self._client.ask([_request(answers[place]) for place in said])
        found: dict[int, tuple[Claim, ...]] = {}
        failed: dict[int, Failure] = {}
        for place, reply in zip(said, replies, strict=True):
            if isinstance(reply, Reply):
                found[place] = self._placed(answers[place], reply.value.claims)
            else:
                failed[place] = reply
        if failed:
            first = next(iter(failed.values()))
            _logger.warning(
                "%d of %d answers are split by the fallback (first: %s: %s)",
                len(failed),
                len(answers),
                first.kind,
                first.reason,
            )
            self.failed += len(failed)
            found.update(zip(failed, self._fallback([answers[place] for place in failed]), strict=True))
        return tuple(found.get(place, ()) for place in range(len(answers)))

    def _placed(self, answer: str, quotes: Sequence[_Quote]) -> tuple[Claim, ...]:
        """Quotes as claims of the answer; the same words twice are two places, in order."""
        claims: list[Claim] = []
        here = 0
        for quote in quotes:
            text = quote.text.strip()
            start = answer.find(text, here)
            if start < 0:
                start = answer.find(text)
            if start < 0 or not text:
                self.invented += 1
                continue
            here = start + len(text)
            end = here + (_STOP.match(answer, here) is not None and text[-1] not in ".!?")
            claims.append(Claim(text=answer[start:end], start=start, end=end, stance=quote.stance))
        kept = disjoint(claims)
        self.overlapping += len(claims) - len(kept)
        return kept


def disjoint(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """The most claims that do not overlap, in order: those that end first (of equal ends the shortest)."""
    kept: list[Claim] = []
    for claim in sorted(claims, key=lambda claim: (claim.end, -claim.start)):
        if not kept or claim.start >= kept[-1].end:
            kept.append(claim)
    return tuple(kept)


def _request(answer: str) -> Request[_Quotes]:
    return Request(
        purpose=SPLIT,
        system=_INSTRUCTIONS,
        user=("Answer:\n", Data(text=answer)),
        parse=partial(parse_json, model=_Quotes),
        schema=_Quotes,
    )
