"""Fitting a claim probe: on graded claims of the host's own answers, with the simple reading beside the clever one.

Four readings are always fitted and judged: a lens on the activations at the end of a claim, the host's confidence in
the claim's tokens, both together, and a small network on every token. Which of them is used is decided on Tune, unless
the caller says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn import linear_model, model_selection
from torch import Tensor

from trimtab.errors import DataError
from trimtab.lens.base import Lens
from trimtab.lens.probes.calibrate import apply_calibration, fit_calibration
from trimtab.lens.probes.evaluate import evidence
from trimtab.lens.probes.examples import checked_examples
from trimtab.lens.probes.linear import fit_logistic, logistic_path, tune_auroc
from trimtab.model.generate import context_length
from trimtab.model.host import Host
from trimtab.model.sites import n_layers
from trimtab.records.claim_probe import ClaimProbeCard, Reading
from trimtab.records.claims import Claim, Grade, Said
from trimtab.records.lens import Calibration, Evidence, LensCard, Pooling
from trimtab.records.rows import Fit, HeldOut, SplitT_co, Tune
from trimtab.records.site import Site
from trimtab.reward.network import fit_network
from trimtab.reward.passes import CONFIDENCE, ClaimPass, Placer, read_claims
from trimtab.reward.reading import LENS, NETWORK, ClaimProbe, features, plain
from trimtab.stats import auroc
from trimtab.stats.arrays import Floats

FOLDS: Final = 5
"""Parts of Fit: what a lens says of each part is weighed as it comes from a lens fitted on the others."""

_STRENGTH: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class GradedAnswers(Generic[SplitT_co]):
    """Answers whose claims were graded.

    Attributes:
        said: The answers with their claims.
        grades: One grade per claim of each answer.
        groups: What each answer is about; no group stands in two splits.
        split: The split marker class.
    """

    said: tuple[Said, ...]
    grades: tuple[tuple[Grade, ...], ...]
    groups: tuple[str, ...]
    split: type[SplitT_co]

    @property
    def known(self) -> tuple[Said, ...]:
        """The answers as a host reads them, with those claims only that stand and whose truth is known."""
        return tuple(
            plain(replace(said, claims=tuple(claim for claim, _ in kept)))[0]
            for said, kept in zip(self.said, self._kept, strict=True)
        )

    @property
    def _kept(self) -> tuple[tuple[tuple[Claim, Grade], ...], ...]:
        return tuple(
            tuple((c, g) for c, g in zip(said.claims, grades, strict=True) if c.stands and g.truth != "unknown")
            for said, grades in zip(self.said, self.grades, strict=True)
        )

    @property
    def labels(self) -> Bool[Tensor, " claim"]:
        """Whether each claim of ``known`` is right."""
        return torch.tensor([grade.truth == "right" for kept in self._kept for _, grade in kept], dtype=torch.bool)

    @property
    def claim_groups(self) -> tuple[str, ...]:
        """The group of each claim of ``known``."""
        pairs = zip(self.known, self.groups, strict=True)
        return tuple(group for said, group in pairs for _ in said.claims)


def sites_of(host: Host) -> tuple[Site, ...]:
    """The residual stream after every layer."""
    return tuple(Site(layer=layer, stream="resid_post") for layer in range(n_layers(host.model)))


def fit_claim_probe(
    host: Host,
    fit: GradedAnswers[Fit],
    tune: GradedAnswers[Tune],
    held_out: GradedAnswers[HeldOut],
    *,
    concept: str = "right",
    reading: Reading | None = None,
    sites: Sequence[Site] | None = None,
    poolings: Sequence[Pooling] = ("last", "mean"),
    provenance: Mapping[str, str] | None = None,
    seed: int = 0,
) -> ClaimProbe:
    """Fit the four readings and keep one.

    The lens is a logistic probe; its layer, pooling and strength are chosen on Tune. Where it is weighed together with
    the host's confidence, its scores of Fit claims come from lenses that were fitted without that claim's group: a
    lens knows the groups that it was fitted on too well, and its weight would be that of a better instrument.

    Args:
        host: The frozen host.
        fit: Claims to learn from.
        tune: Claims to choose and calibrate on.
        held_out: Claims for the evidence.
        concept: What a ``right`` grade stands for.
        reading: Which reading to keep; ``None``: the one with the highest AUROC on Tune, the simpler one on a tie.
        sites: Where lenses are tried; ``None``: the residual stream after every layer.
        poolings: How lenses pool the tokens of a claim.
        provenance: Kept in the card.
        seed: Seed of the folds and of resamples.

    Raises:
        DataError: If a split has no claim of one of the classes, a group stands in two splits, or fewer than ``FOLDS``
            groups of Fit have claims of one of the classes.
    """
    _check_groups(fit, tune, held_out)
    places = tuple(sites_of(host) if sites is None else sites)
    placer = Placer(host.tokenizer, max_length=context_length(host))

    def passed(side: GradedAnswers[Fit] | GradedAnswers[Tune] | GradedAnswers[HeldOut]) -> ClaimPass:
        rows = [placer(said, index) for index, said in enumerate(side.known)]
        return read_claims(host, rows, places, confidence=True)

    seen: dict[type[Fit | Tune | HeldOut], ClaimPass] = {
        Fit: passed(fit),
        Tune: passed(tune),
        HeldOut: passed(held_out),
    }
    lens = _best_lens(host, fit, tune, seen[Fit], seen[Tune], places, poolings, concept)
    sure = features(seen[Fit])
    found: dict[Reading, tuple[tuple[str, ...], tuple[float, ...], float]] = {
        "confidence": _weighed(CONFIDENCE, sure, fit.labels),
        "probe": ((LENS,), (1.0,), 0.0),
        "both": _weighed((LENS, *CONFIDENCE), {**sure, LENS: _held_back(fit, seen[Fit], lens, seed)}, fit.labels),
        "network": ((NETWORK,), (1.0,), 0.0),
    }
    network = fit_network(seen[Fit], fit.labels, seen[Tune], tune.labels, places, seed=seed)
    made: dict[Reading, ClaimProbe] = {}
    areas: dict[Reading, float] = {}
    truth = tune.labels.numpy()
    for kind, (names, weights, bias) in found.items():
        card = ClaimProbeCard(
            concept=concept,
            reading=kind,
            model=host.name,
            model_hash=host.content_hash,
            features=names,
            weights=weights,
            bias=bias,
            calibration=Calibration(temperature=1.0),
            provenance=dict(provenance or {}),
        )
        probe = ClaimProbe(
            card=card, lens=lens if LENS in names else None, network=network if NETWORK in names else None
        )
        scores = probe.scores(seen[Tune]).double().numpy()
        areas[kind] = auroc(scores[truth], scores[~truth])
        made[kind] = replace(probe, card=replace(card, calibration=fit_calibration(scores, truth)))
    chosen: Reading = max(areas, key=areas.__getitem__) if reading is None else reading
    order: list[Reading] = [chosen, *(kind for kind in made if kind != chosen)]
    told: dict[str, Evidence] = {kind: _evidence(made[kind], seen[HeldOut], held_out, seed) for kind in order}
    return replace(made[chosen], card=replace(made[chosen].card, evidence=told))


def _evidence(probe: ClaimProbe, passed: ClaimPass, held_out: GradedAnswers[HeldOut], seed: int) -> Evidence:
    scores = probe.scores(passed)
    chances = apply_calibration(probe.card.calibration, scores)
    return evidence(
        scores.double().numpy(),
        held_out.labels.numpy(),
        held_out.claim_groups,
        probabilities=chances.double().numpy(),
        seed=seed,
        resamples=500,
        permutations=199,
    )


def _best_lens(
    host: Host,
    fit: GradedAnswers[Fit],
    tune: GradedAnswers[Tune],
    fit_pass: ClaimPass,
    tune_pass: ClaimPass,
    places: Sequence[Site],
    poolings: Sequence[Pooling],
    concept: str,
) -> Lens:
    """The logistic lens with the highest AUROC on Tune."""
    found: list[tuple[float, Lens]] = []
    for site in places:
        fitted = checked_examples(fit_pass.spans[site], fit.labels, fit.claim_groups, Fit)
        tuned = checked_examples(tune_pass.spans[site], tune.labels, tune.claim_groups, Tune)
        for pooling in poolings:
            card = LensCard(
                concept=concept,
                meaning=f"a claim that is {concept}",
                kind="logistic",
                site=site,
                pooling=pooling,
                model=host.name,
                model_hash=host.content_hash,
            )
            lens = fit_logistic(fitted, tuned, card, pooling=pooling)
            found.append((tune_auroc(lens.read(tuned.spans), tuned), lens))
    return max(found, key=lambda pair: pair[0])[1]


def _held_back(fit: GradedAnswers[Fit], passed: ClaimPass, lens: Lens, seed: int) -> Float[Tensor, " claim"]:
    """Scores of Fit claims, each by a lens that was fitted without its group."""
    spans, labels = passed.spans[lens.card.site], fit.labels
    inputs = spans.last() if lens.card.pooling == "last" else spans.mean()
    strength = float(lens.card.settings["strength"])
    scores = torch.zeros(len(labels))
    folds = model_selection.StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    for kept, left in folds.split(np.zeros(len(labels)), labels.numpy(), np.array(fit.claim_groups)):
        (found,) = logistic_path(inputs[kept], labels[kept], [strength])
        scores[left] = found(inputs[left])
    return scores


def _weighed(
    names: Sequence[str], values: Mapping[str, Float[Tensor, " claim"]], labels: Bool[Tensor, " claim"]
) -> tuple[tuple[str, ...], tuple[float, ...], float]:
    """Weights of a logistic regression on standardised features, for raw ones."""
    matrix: Floats = np.stack([values[name].double().numpy() for name in names], 1)
    middle, spread = matrix.mean(0), np.maximum(matrix.std(0), 1e-12)
    model = linear_model.LogisticRegression(C=_STRENGTH, max_iter=1000)
    model.fit((matrix - middle) / spread, labels.numpy())
    weights = np.asarray(model.coef_, dtype=np.float64)[0] / spread
    bias = float(np.asarray(model.intercept_)[0] - weights @ middle)
    return tuple(names), tuple(float(weight) for weight in weights), bias


def _check_groups(fit: GradedAnswers[Fit], tune: GradedAnswers[Tune], held_out: GradedAnswers[HeldOut]) -> None:
    sides = (fit, tune, held_out)
    for place, side in enumerate(sides):
        for other in sides[:place]:
            shared = sorted(set(side.groups) & set(other.groups))
            if shared:
                raise DataError(
                    f"{len(shared)} groups stand in {other.split.__name__} and in {side.split.__name__} "
                    f"(first: {shared[0]!r})",
                    allowed="every group in one split only",
                    todo="divide whole groups",
                )
        right, claims = int(side.labels.sum()), len(side.labels)
        if not claims:
            raise DataError(
                f"{side.split.__name__}: the grader could tell none of {sum(map(len, side.grades))} claims",
                allowed="claims that the grader can tell to be right or wrong",
                todo="ask about what the grader knows (its documents, or the lab's own people), or give it documents",
            )
        if right in (0, claims):
            raise DataError(
                f"{side.split.__name__}: {right} of {claims} graded claims are right",
                allowed="right and wrong claims in every split",
                todo="sample more answers, or ask about things that the host knows less (or more) of",
            )
    _check_folds(fit)


def _check_folds(fit: GradedAnswers[Fit]) -> None:
    pairs = set(zip(fit.claim_groups, cast("list[bool]", fit.labels.tolist()), strict=True))
    right = sum(label for _, label in pairs)
    if min(right, len(pairs) - right) < FOLDS:
        raise DataError(
            f"Fit: {right} groups with right claims and {len(pairs) - right} groups with wrong ones",
            allowed=f"at least {FOLDS} groups of each, one for every fold",
            todo="ask about more things, or give every question a group of its own",
        )
