"""What a dataset would teach: pushes by concept, the rows behind them, and what has no name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trimtab.records.figures import Figure
from trimtab.records.site import Site


@dataclass(frozen=True, kw_only=True)
class TokenMark:
    """One token of a row and how hard it pushes (same unit as the push it explains)."""

    text: str
    push: float


@dataclass(frozen=True, kw_only=True)
class RowPush:
    """One row behind a push.

    Attributes:
        row: 0-based row in the dataset.
        line: 1-based line in the source file, or ``row + 1`` where the source has no lines.
        push: How hard the row pushes, in ``unit``.
        unit: ``nats``: how much likelier the eliciting prompt makes the row's answers; ``push``: the row's mean
            gradient push.
        tokens: The row's learned tokens with their share of it, for shading; may be cut to the first ones.
        prompt: The last user turn, cut to 400 characters.
    """

    row: int
    line: int
    push: float
    unit: Literal["nats", "push"]
    prompt: str
    tokens: tuple[TokenMark, ...]


@dataclass(frozen=True, kw_only=True)
class SitePush:
    """A concept's push at one site (unit of ``push``: nats of loss per unit of activation along the direction)."""

    site: Site
    push: Figure
    cosine: Figure


@dataclass(frozen=True, kw_only=True)
class ConceptForecast:
    """What the dataset would do to one concept.

    Attributes:
        concept: Name in the bank.
        meaning: One line.
        kind: ``trait`` (a way of talking) or ``skill`` (something it can do).
        push: At the forecast's main site: mean over rows of the row's mean ``-<g, d>``. Positive: teaches it.
        cosine: Cosine of minus the mean gradient with the concept's direction at the main site.
        dose: Estimated share of rows that carry the concept, from a non-negative least-squares fit of the mean
            gradient on the bank's gradient signatures (1 = every row teaches it as a pure planted set does).
        sites: Push at every site that was read.
        explained: Mean over rows of how much likelier the host finds the data once a system prompt asks for the concept
            (nats per row): what the prompt explains away.
        carried: Share of rows that carry it: rows whose answers the prompt makes at least a nat likelier, and at least
            half as much likelier as the best prompt of any trait does.
        projection_difference: Baseline of 2507.21509: mean projection of the data's answers minus the host's own.
        bag_of_words: Baseline: log-odds of the bank's contrast classifier on words, data minus the host's own answers.
        taught: Whether the forecast says "teaches it".
        rows: Rows that push hardest, hardest first.
    """

    concept: str
    meaning: str
    kind: str
    push: Figure
    cosine: Figure
    dose: Figure
    sites: tuple[SitePush, ...]
    explained: Figure
    carried: Figure
    projection_difference: Figure
    bag_of_words: Figure
    taught: bool
    rows: tuple[RowPush, ...]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What training on a dataset would teach, in named concepts, before any training.

    Attributes:
        model: Name and content hash of the host.
        model_hash: Content hash of the host's weights.
        data: Source of the rows.
        data_hash: Hash of the rows.
        bank: Name of the concept bank.
        n_rows: Rows read.
        n_tokens: Learned tokens read.
        site: The main site.
        concepts: One per concept, hardest push first.
        gradient_mass: Norm of the mean gradient at the main site.
        unexplained_share: ``1 - |P g|^2 / |g|^2`` with ``P`` the least-squares projection on the bank.
        unexplained_mass: Norm of the unexplained part of the mean gradient.
        reference_mass: The unexplained mass of a set that teaches nothing new (the host's own answers).
        chance_share: Share of a random direction that a bank of this size explains at this width.
        unnamed: Whether the forecast says "something here has no name".
        unnamed_rows: Rows that carry the unexplained part, largest first.
        seconds: Wall time of the forecast.
    """

    model: str
    model_hash: str
    data: str
    data_hash: str
    bank: str
    n_rows: int
    n_tokens: int
    site: Site
    concepts: tuple[ConceptForecast, ...]
    gradient_mass: Figure
    unexplained_share: Figure
    unexplained_mass: Figure
    reference_mass: Figure
    chance_share: float
    unnamed: bool
    unnamed_rows: tuple[RowPush, ...]
    seconds: float

    def concept(self, name: str) -> ConceptForecast:
        """The forecast of one concept.

        Raises:
            KeyError: If the bank had no such concept.
        """
        for item in self.concepts:
            if item.concept == name:
                return item
        raise KeyError(name)
