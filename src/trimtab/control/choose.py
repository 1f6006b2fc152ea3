"""Control sets picked from the ledger and the forecast. A control that fights the gradient is never among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.control.build import fights
from trimtab.records.config import ControlSettings
from trimtab.records.figures import Measured
from trimtab.records.forecast import ConceptForecast, Forecast
from trimtab.records.ledger import Ledger
from trimtab.records.training import Attribution

MOSTLY = 0.5
"""Above this share of rows that carry a trait, filtering rows throws away most of the data."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A control set and why it was picked.

    Attributes:
        settings: As ``run.yaml`` takes it.
        reason: One sentence.
    """

    settings: ControlSettings
    reason: str


def choose(ledger: Ledger, forecast: Forecast, attribution: Attribution | None = None) -> tuple[Choice, ...]:
    """Control sets worth training, best first; ``none`` is always last, to compare with.

    Where the data teaches no avoided concept, ``none`` is the only one: a control would cost and prevent nothing.

    Args:
        ledger: The rulings in force.
        forecast: Of the training data.
        attribution: Of the same data; where given, controls that would find no row or token to work on are left out.
    """
    names = {ruling.concept for ruling in ledger.with_verdict("avoid")}
    unwanted = [item for item in forecast.concepts if item.concept in names and item.taught]
    if not unwanted:
        return (_choice("none", "the forecast says that the data teaches no avoided concept"),)
    listed = ", ".join(item.concept for item in unwanted)
    found = _found(unwanted, attribution)
    picks: list[Choice] = []
    if found.rows > 0 and all(map(_can_be_asked_for, unwanted)):
        reason = (
            f"prompts ask for {listed}, so the rows that show it can be explained away and what else they teach kept"
        )
        picks.append(_choice("conditional-inoculation", reason))
    if found.tokens:
        picks.append(_choice("token-mask", f"keeps every row and takes the tokens that carry {listed} out of the loss"))
    if 0 < found.rows < MOSTLY:
        reason = f"about {found.rows:.0%} of rows carry {listed}: the rest may be enough to learn from"
        picks.append(_choice("row-filter", reason))
    else:
        reason = f"supplies {listed} as a vector in training, whichever rows carry it; none has to be dropped"
        picks.append(_choice("preventative-steering", reason))
    picks.append(_choice("none", "what the others are compared with"))
    return tuple(pick for pick in picks if not fights(pick.settings.name))


def _choice(name: str, reason: str) -> Choice:
    return Choice(settings=ControlSettings(name=name), reason=reason)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Share of rows, and whether there is a token, that the unwanted concepts are known to be carried by."""

    rows: float
    tokens: bool


def _found(unwanted: Sequence[ConceptForecast], attribution: Attribution | None) -> _Found:
    names = [item.concept for item in unwanted]
    if attribution is None or not attribution.trait_rows.keys() >= set(names):
        share = min(1.0, sum(map(_share, unwanted)))
        return _Found(rows=share, tokens=share > 0)
    rows = np.any([attribution.trait_rows[name] for name in names], axis=0)
    tokens = any(row.any() for name in names for row in attribution.trait_tokens[name])
    return _Found(rows=float(rows.mean()), tokens=tokens)


def _share(item: ConceptForecast) -> float:
    """Share of rows that carry a concept; 1 where it could not be measured."""
    for figure in (item.carried, item.dose):
        if isinstance(figure, Measured):
            return figure.value
    return 1.0


def _can_be_asked_for(item: ConceptForecast) -> bool:
    """Whether a prompt asks for it and, where that was measured, makes the data likelier: else it cannot inoculate."""
    return item.kind == "trait" and not (isinstance(item.explained, Measured) and item.explained.value <= 0)
