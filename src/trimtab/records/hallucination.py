"""How much each stage of feature rewards makes up: one line per stage and seed, and the curves of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from trimtab.records.figures import Figure

Stage: TypeAlias = Literal["before", "monitor", "weights", "after"]
"""``before``: the host; ``monitor``: the host under the harness; ``weights``: the trained policy without the harness;
``after``: the trained policy, the best of N answers, under the harness. A table may hold other arms besides these."""


@dataclass(frozen=True, kw_only=True)
class StageFigures:
    """The figures of one stage.

    A claim is *stated* when the final answer asserts or hedges it and the grader can tell whether it is right; what the
    grader cannot tell (remarks, nonsense) is neither stated nor wrong, so that an answer gains nothing by it. Intervals
    resample questions, and seeds where there are several.

    Attributes:
        stage: A ``Stage``, or another arm's name.
        wrong_claims: Share of stated claims that are asserted and wrong; ``n`` counts claims.
        claims: Stated claims per answer; ``n`` counts answers.
        hedged: Share of stated claims that are hedged; ``n`` counts claims.
        ungraded: Share of claims said plainly or with doubt that the grader cannot tell, which count nowhere else.
        known_answered: Share of questions about well-known people that were answered with a right, asserted claim, no
            wrong one and no doubt about a right one; ``n`` counts questions.
        flagged_kept: Share of right claims that were flagged (taken up by the harness, or read below its threshold) and
            that the final answer still asserts; ``n`` counts claims.
        facts: Share of the fact exam that is right; ``n`` counts questions.
        arithmetic: Share of the arithmetic exam that is right; ``n`` counts questions.
    """

    stage: str
    wrong_claims: Figure
    claims: Figure
    hedged: Figure
    ungraded: Figure
    known_answered: Figure
    flagged_kept: Figure
    facts: Figure
    arithmetic: Figure


@dataclass(frozen=True, kw_only=True)
class StageResult(StageFigures):
    """One line of ``table.json``: the figures of one stage under one seed.

    Attributes:
        seed: Seed of training and sampling.
    """

    seed: int


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One term of the reward, or another quantity of training, by step.

    Attributes:
        name: What is drawn; curves of one name (several seeds) share a panel.
        steps: Optimiser steps, rising.
        values: The value at each step; not finite where training broke.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
