"""What the harness is told, and what comes out of it: answers whose doubtful claims were put before the model again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field

from trimtab.records.claims import Action, Claim, Intervention
from trimtab.records.config import Settings
from trimtab.records.rows import Message

CLAIM: Final = "{claim}"
"""In injected texts: stands for the words of the flagged claim."""


class HarnessSettings(Settings):
    """How the harness deals with claims that are read as doubtful; the names are those of RLFR (2602.10067)."""

    threshold: float = Field(
        default=0.5, ge=0, le=1, description="a claim that is asserted is flagged if P(right) is below this"
    )
    max_interventions: int = Field(default=30, ge=0, description="most turns of the harness in one answer")
    max_corrections: int = Field(
        default=2, ge=0, description="corrections of one claim before the harness itself takes it back"
    )
    mode: Literal["inline", "end"] = Field(
        default="inline",
        description="`inline`: cut the answer after the flagged claim and go on from there; `end`: add to the answer",
    )
    inject: str = Field(
        default=" wait, let me check that.",
        min_length=1,
        description="put after a flagged claim; `{claim}` stands for its words",
    )
    retract: str = Field(
        default=" i am not sure about that.",
        min_length=1,
        description="put after a claim that the harness takes back; the splitter has to read it as doubt or withdrawal",
    )


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """An answer that went through the harness. Tokens are what happened; texts are decoded from them.

    ``claims``, ``probabilities`` and ``actions`` have the same length.

    Attributes:
        prompt: The conversation before the answer.
        prompt_ids: Its tokens with the opening of the answer.
        answer: The answer.
        first: The answer before anything was done about it.
        interventions: What was done, in order.
        token_ids: Tokens of the answer, with the one that ended it if the model ended it.
        generated: 1 for each token that the model generated, 0 for each that was injected (TRL's ``env_mask``).
        claims: The claims of ``answer`` with their final stances.
        probabilities: Calibrated probability of each that it is right, as it was read when it was made.
        actions: What was done about each; ``None``: nothing.
    """

    prompt: tuple[Message, ...]
    prompt_ids: tuple[int, ...]
    answer: str
    first: str
    interventions: tuple[Intervention, ...]
    token_ids: tuple[int, ...]
    generated: tuple[int, ...]
    claims: tuple[Claim, ...]
    probabilities: tuple[float, ...]
    actions: tuple[Action | None, ...]
