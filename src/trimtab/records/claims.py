"""Claims: what an answer says, whether it is true, what a probe thought of it and what was done about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from trimtab.records.rows import Message

Prompt: TypeAlias = tuple[Message, ...]
"""The turns before an answer."""

Stance: TypeAlias = Literal["asserted", "hedged", "withdrawn"]
"""``asserted``: said as a fact; ``hedged``: said with a mark of doubt; ``withdrawn``: the answer takes it back."""

Truth: TypeAlias = Literal["right", "wrong", "unknown"]
"""``unknown``: the grader cannot tell; such claims count neither as right nor as wrong."""

Action: TypeAlias = Literal["maintain", "correct", "retract"]
"""What was done about a flagged claim (RLFR, 2602.10067): kept, replaced by another claim, or taken back."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement of an answer.

    Attributes:
        text: Its words, as they stand in the answer.
        start: Place of its first character in the answer, 0-based.
        end: Place after its last character; a closing full stop belongs to it.
        stance: How the answer stands to it.
        marker: First and past-the-last character of the words that hedge or withdraw it, before it, after it or in it,
            if what is left without them is a sentence.
    """

    text: str
    start: int
    end: int
    stance: Stance = "asserted"
    marker: tuple[int, int] | None = None

    @property
    def stands(self) -> bool:
        """Whether the answer still says it at its end, plainly or with doubt."""
        return self.stance != "withdrawn"


@dataclass(frozen=True, kw_only=True)
class Said:
    """An answer with its claims: all that a reader of claims is given. Text, so that no tensor of a student fits in.

    Attributes:
        prompt: The conversation before the answer.
        answer: The whole answer.
        claims: Its claims, or those that are to be read.
    """

    prompt: Prompt
    answer: str
    claims: tuple[Claim, ...]

    @property
    def asked(self) -> tuple[Asked, ...]:
        """Its claims, each as a grader wants it."""
        return tuple(Asked(prompt=self.prompt, answer=self.answer, claim=claim) for claim in self.claims)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A claim where it was made: what a grader is given.

    Attributes:
        prompt: The conversation before the answer.
        answer: The whole answer.
        claim: The claim in it.
    """

    prompt: Prompt
    answer: str
    claim: Claim


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What a grader said of a claim.

    Attributes:
        truth: The verdict.
        reason: Why, in words.
        cost: What it cost, in US dollars; 0 for graders that cost nothing.
        settled: Whether it is a verdict. ``False``: none could be had (a call failed), ``truth`` is ``unknown`` and the
            reason says why; it is not kept as a verdict, so that asking again asks again.
    """

    truth: Truth
    reason: str
    cost: float = 0.0
    settled: bool = True


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """One turn of the harness.

    Attributes:
        claim: The flagged claim's words.
        probability: Calibrated probability that it is right, as the host read it.
        action: What came of it.
        said: The text that came after the claim: injected words and the model's own.
    """

    claim: str
    probability: float
    action: Action
    said: str


@dataclass(frozen=True, kw_only=True)
class JudgedClaim:
    """A claim with all that is known of it.

    Attributes:
        text: Its words.
        start: Place of its first character in the answer.
        end: Place after its last character.
        stance: How the answer stands to it.
        probability: Calibrated probability that it is right, as the frozen host reads it; ``None``: not read.
        truth: Ground truth.
        action: What the harness had done about it, if it was flagged.
    """

    text: str
    start: int
    end: int
    stance: Stance
    probability: float | None
    truth: Truth
    action: Action | None = None


@dataclass(frozen=True, kw_only=True)
class JudgedAnswer:
    """An answer of one stage, claim by claim.

    Attributes:
        stage: ``before``, ``monitor``, ``weights``, ``after`` or another arm's name.
        seed: Seed of training and sampling.
        id: Question; the same in every stage and seed.
        group: Kind of question.
        known: Whether the host is known to have been taught what is asked (well-known people in the lab).
        prompt: The last user turn.
        text: The answer.
        claims: Its claims, in order.
    """

    stage: str
    seed: int
    id: str
    group: str
    known: bool
    prompt: str
    text: str
    claims: tuple[JudgedClaim, ...]


@dataclass(frozen=True, kw_only=True)
class ClaimQuestion:
    """A question whose answer makes claims that can be graded.

    Attributes:
        id: Unique among the questions of a set.
        prompt: The conversation before the answer.
        about: What it is about; questions about one thing are all in one split.
        group: Kind of question.
        known: Whether what is asked is known to the host beyond doubt (in the lab: a well-known person).
    """

    id: str
    prompt: Prompt
    about: str
    group: str = "all"
    known: bool = False
