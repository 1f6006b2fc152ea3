"""Sparse autoencoders on paper: how one is trained, what is known of one, and the figures of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pydantic import Field, JsonValue, model_validator

from trimtab.records.config import Settings
from trimtab.records.figures import Figure
from trimtab.records.lens import Evidence
from trimtab.records.site import Site

SaeArchitecture: TypeAlias = Literal["topk", "batchtopk", "jumprelu", "matryoshka"]
"""What can be trained; ``batchtopk`` and ``matryoshka`` end as JumpReLU with one threshold for all features."""

SaeActivation: TypeAlias = Literal["standard", "topk", "jumprelu"]
"""How pre-activations become activations, in SAELens's words; ``standard`` is a ReLU."""

SaeNormalise: TypeAlias = Literal["none", "layer_norm", "constant_norm_rescale"]
"""What is done to every token before it is encoded and undone after it is decoded, in SAELens's words."""

MATRYOSHKA_PREFIXES = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0)
"""The nested shares of 2503.17547 (2,048 to 65,536 features)."""


class SaeSettings(Settings):
    """How a sparse autoencoder is trained."""

    architecture: SaeArchitecture = Field(default="batchtopk", description="topk, batchtopk, jumprelu or matryoshka")
    features: int = Field(gt=1, description="number of features")
    k: int = Field(default=32, gt=0, description="features active on a token: exactly (topk), or on average")
    tokens: int | None = Field(default=None, gt=0, description="tokens to train on; default: every token once")
    batch: int = Field(default=2048, gt=0, description="tokens in a step")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="peak of Adam's; default: by features and steps, see `lens.sae.train.default_rate`",
    )
    warm_up: float = Field(default=0.05, ge=0, lt=1, description="share of the steps with a rising learning rate")
    decay: float = Field(default=0.2, ge=0, le=1, description="share of the steps with a falling learning rate")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradient clipping")
    dead_after: int | None = Field(
        default=None, gt=0, description="tokens without firing after which a feature is dead; default: a tenth of all"
    )
    auxiliary: float = Field(default=1 / 32, ge=0, description="weight of the AuxK loss that revives dead features")
    auxiliary_k: int | None = Field(default=None, gt=0, description="dead features in it on a token; default: k")
    prefixes: tuple[float, ...] = Field(
        default=MATRYOSHKA_PREFIXES, description="nested shares of the features (matryoshka); rising, the last is 1"
    )
    l0_weight: float = Field(default=0.1, gt=0, description="weight of (L0 / k - 1)^2 (jumprelu)")
    bandwidth: float = Field(
        default=0.2, gt=0, description="width of the straight-through window around a threshold (jumprelu)"
    )
    seed: int = Field(default=0, ge=0, description="of first weights and the order of tokens")

    @model_validator(mode="after")
    def _fits(self) -> SaeSettings:
        if self.k > self.features:
            raise ValueError(f"k is {self.k}, but there are only {self.features} features")
        rising = all(a < b for a, b in zip(self.prefixes, self.prefixes[1:], strict=False))
        if not self.prefixes or not rising or self.prefixes[0] <= 0 or self.prefixes[-1] != 1:
            raise ValueError("prefixes must rise from above 0 to exactly 1")
        if self.warm_up + self.decay > 1:
            raise ValueError("warm_up and decay together are more than the whole run")
        return self


@dataclass(frozen=True, kw_only=True)
class SaeOrigin:
    """The model and the tokens that a sparse autoencoder was made for; ``None`` is not known.

    Attributes:
        model: Name of the host.
        model_hash: Content hash of the host.
        tokenizer_hash: Hash of its tokenizer.
        data: What was read, in words.
        data_hash: Hash of what was read.
        selection_hash: Hash of which tokens of it were kept.
    """

    model: str
    model_hash: str | None = None
    tokenizer_hash: str | None = None
    data: str | None = None
    data_hash: str | None = None
    selection_hash: str | None = None


@dataclass(frozen=True, kw_only=True)
class SaeTraining:
    """How one of ours was trained.

    Attributes:
        settings: As asked for.
        tokens: Tokens trained on, repetitions counted.
        steps: Optimiser steps.
        fvu: Share of the variance left unexplained in the last step's batch.
        version: Version of Trimtab.
        bar: For TopK, the activation that as many features of a token pass on average as are let through: what a
            feature alone is read with, where the others are not there to compete.
    """

    settings: SaeSettings
    tokens: int
    steps: int
    fvu: float
    version: str
    bar: float | None = None


@dataclass(frozen=True, kw_only=True)
class SaeCard:
    """What is known of a sparse autoencoder apart from its weights.

    Attributes:
        activation: How pre-activations become activations.
        k: Features active on a token; only for TopK.
        centred: Whether the decoder's bias is subtracted from what is encoded.
        normalise: What is done to every token before encoding and undone after decoding.
        site: Where it reads.
        origin: The model and tokens that it was made for.
        trusted: Whether a person, not a hash, says that ``origin`` is the host.
        training: How it was trained, if by us.
        metadata: What else stood in the ``metadata`` of a SAELens configuration; kept when it is saved again.
    """

    activation: SaeActivation
    k: int | None = None
    centred: bool = True
    normalise: SaeNormalise = "none"
    site: Site
    origin: SaeOrigin
    trusted: bool = False
    training: SaeTraining | None = None
    metadata: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])


@dataclass(frozen=True, kw_only=True)
class SaeFidelity:
    """How well activations are rebuilt and from how much; ``n`` counts rows unless said otherwise.

    Attributes:
        fvu: Share of the variance around the mean activation that is left unexplained.
        l0: Mean number of active features on a token.
        cosine: Mean cosine of activation and reconstruction.
        dead: Share of features that fire on none of the tokens; its interval is Wilson's and ``n`` counts features.
            Fewer tokens make more of it.
        tokens: Tokens read.
        density: Number of features by log10 of the share of tokens on which they fire, for the bins between
            ``density_edges``; features that never fire are in none.
        density_edges: Rising edges of those bins.
    """

    fvu: Figure
    l0: Figure
    cosine: Figure
    dead: Figure
    tokens: int
    density: tuple[int, ...]
    density_edges: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SaeSplice:
    """What the model loses where its activations are replaced, nats per predicted token; ``n`` counts rows.

    Attributes:
        clean: Loss of the model as it is.
        spliced: Loss with every activation replaced by its reconstruction.
        zero: Loss with every activation replaced by zero.
        mean: Loss with every activation replaced by the mean activation.
        recovered_from_zero: ``(zero - spliced) / (zero - clean)``.
        recovered_from_mean: ``(mean - spliced) / (mean - clean)``, the harder comparison.
    """

    clean: Figure
    spliced: Figure
    zero: Figure
    mean: Figure
    recovered_from_zero: Figure
    recovered_from_mean: Figure


@dataclass(frozen=True, kw_only=True)
class SaeConcept:
    """How well a concept known in advance is read from the features, beside a probe on the raw activations.

    Attributes:
        concept: Its name.
        features: The features chosen, best first; as many as the largest sparse probe has.
        sparse: Held-out evidence of the probe on 1, 5, … features, by their number.
        dense: Held-out evidence of a logistic probe on the raw activations, the baseline.
    """

    concept: str
    features: tuple[int, ...]
    sparse: Mapping[int, Evidence]
    dense: Evidence


@dataclass(frozen=True, kw_only=True)
class SaeReport:
    """Everything that was measured of one sparse autoencoder; what was not asked for is ``None`` or empty."""

    sae: str
    card: SaeCard
    d_model: int
    features: int
    fidelity: SaeFidelity
    splice: SaeSplice | None = None
    concepts: tuple[SaeConcept, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClusterRow:
    """A row on which much of a cluster fires.

    Attributes:
        line: 1-based line of the data.
        score: Share of the cluster that fires on it, weighted by centrality.
        text: Words around the token on which most of it fires, with ``<<`` and ``>>`` around that token.
    """

    line: int
    score: float
    text: str


@dataclass(frozen=True, kw_only=True)
class ClusterReport:
    """One cluster of features, as it is shown to a person.

    Attributes:
        name: Name of its lens's folder.
        features: Their numbers, by falling centrality.
        centrality: Sum of each feature's edge weights inside the cluster, same order.
        fires: Share of rows on which at least half of it fires, weighted by centrality.
        touched: Share of rows on which at least one of its features fires.
        words: Words that stand in those rows more surely than in the others, most telling first.
        rows: The rows on which most of it fires; no text twice.
    """

    name: str
    features: tuple[int, ...]
    centrality: tuple[float, ...]
    fires: Figure
    touched: float
    words: tuple[str, ...]
    rows: tuple[ClusterRow, ...]


@dataclass(frozen=True, kw_only=True)
class ClustersReport:
    """The clusters of one autoencoder on some data, largest first.

    Attributes:
        sae: The autoencoder, as it was named.
        card: What is known of it.
        data: What was read.
        data_hash: Hash of its rows.
        role: Whose turns were read.
        rows: Rows read.
        settings: How features were clustered.
        clusters: What was found.
    """

    sae: str
    card: SaeCard
    data: str
    data_hash: str
    role: str
    rows: int
    settings: Mapping[str, int | float]
    clusters: tuple[ClusterReport, ...]
