"""Fitting a claim probe on the lab: answers sampled from the host itself, graded by the planted truth."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import get_args

import pytest
import torch

from trimtab.errors import DataError
from trimtab.lab.claim_questions import claim_questions
from trimtab.lab.claims import LabGrader
from trimtab.lab.world import build_world
from trimtab.lens.probes.linear import logistic_path
from trimtab.model.generate import generate
from trimtab.model.host import Host
from trimtab.records.claim_probe import Reading
from trimtab.records.claims import Claim, Grade, Said, Truth
from trimtab.records.figures import Figure, Measured
from trimtab.records.rows import Fit, HeldOut, SplitT_co, Tune
from trimtab.records.site import Site
from trimtab.reward import fit as module
from trimtab.reward.claims import rule_claims
from trimtab.reward.fit import FOLDS, GradedAnswers, fit_claim_probe, sites_of
from trimtab.reward.passes import CONFIDENCE
from trimtab.reward.reading import LENS, NETWORK, ClaimProbe, ClaimReader
from trimtab.stats import auroc

WORLD = build_world()
MIDDLE = (Site(2),)


@cache
def host() -> Host:
    return Host.load("lab")


@cache
def graded(split: type[SplitT_co], count: int) -> GradedAnswers[SplitT_co]:
    questions = claim_questions(WORLD, split, count)
    texts = generate(host(), [q.prompt for q in questions], max_new_tokens=40, temperature=1.0, batch_size=256)
    said = tuple(
        Said(prompt=question.prompt, answer=text, claims=claims)
        for question, text, claims in zip(questions, texts, rule_claims(texts), strict=True)
    )
    grader = LabGrader(WORLD)
    return GradedAnswers(
        said=said,
        grades=tuple(grader(one.asked) for one in said),
        groups=tuple(question.about for question in questions),
        split=split,
    )


def parts() -> tuple[GradedAnswers[Fit], GradedAnswers[Tune], GradedAnswers[HeldOut]]:
    return graded(Fit, 150), graded(Tune, 90), graded(HeldOut, 120)


@cache
def probe(reading: Reading | None = None) -> ClaimProbe:
    """All sites are tried where the reading is left open, one where it is asked for."""
    return fit_claim_probe(
        host(), *parts(), reading=reading, sites=MIDDLE if reading else None, provenance={"data": "lab"}
    )


def measured(figure: Figure) -> Measured:
    assert isinstance(figure, Measured), figure
    return figure


def with_grades(side: GradedAnswers[SplitT_co], truths: Sequence[Truth]) -> GradedAnswers[SplitT_co]:
    left = iter(truths)
    grades = tuple(tuple(replace(grade, truth=next(left)) for grade in row) for row in side.grades)
    return replace(side, grades=grades)


def shuffled(side: GradedAnswers[SplitT_co]) -> GradedAnswers[SplitT_co]:
    truths = [grade.truth for row in side.grades for grade in row]
    random.Random(0).shuffle(truths)
    return with_grades(side, truths)


def all_right(side: GradedAnswers[SplitT_co]) -> GradedAnswers[SplitT_co]:
    return with_grades(side, ["right"] * sum(map(len, side.grades)))


def test_all_readings_are_judged_and_the_best_on_tune_is_kept() -> None:
    card = probe().card
    assert set(card.evidence) == set(get_args(Reading))
    assert next(iter(card.evidence)) == card.reading
    assert measured(card.evidence[card.reading].auroc).value > 0.7
    held_out = parts()[2].labels
    for evidence in card.evidence.values():
        assert measured(evidence.auroc).value > 0.6
        assert (evidence.positives, evidence.negatives) == (int(held_out.sum()), int((~held_out).sum()))
        assert evidence.p_value is not None
        assert evidence.ece is not None
    assert (card.model, card.model_hash, card.concept) == (host().name, host().content_hash, "right")
    assert card.provenance == {"data": "lab"}


@pytest.mark.parametrize(
    ("reading", "features"),
    [("probe", (LENS,)), ("confidence", CONFIDENCE), ("both", (LENS, *CONFIDENCE)), ("network", (NETWORK,))],
)
def test_a_reading_can_be_asked_for(reading: Reading, features: tuple[str, ...]) -> None:
    made = probe(reading)
    assert made.card.reading == reading
    assert made.card.features == features
    assert (made.lens is not None) == (LENS in features)
    assert (made.network is not None) == (NETWORK in features)
    assert next(iter(made.card.evidence)) == reading
    assert made.card.evidence["confidence"] == probe().card.evidence["confidence"]


def test_the_evidence_is_what_a_reader_reads() -> None:
    """Figures of the fit, and the probabilities that a reader then gives to the same claims."""
    held_out, made = parts()[2], probe()
    chances = torch.tensor([p for row in ClaimReader(host(), made)(held_out.known) for p in row], dtype=torch.float64)
    truth = held_out.labels
    assert auroc(chances[truth].numpy(), chances[~truth].numpy()) == pytest.approx(
        measured(made.card.evidence[made.card.reading].auroc).value, abs=1e-3
    )
    assert float(chances.mean()) == pytest.approx(float(truth.double().mean()), abs=0.12)


def test_shuffled_truth_cannot_be_read() -> None:
    made = fit_claim_probe(host(), *map(shuffled, parts()), sites=MIDDLE)
    for evidence in made.card.evidence.values():
        assert abs(measured(evidence.auroc).value - 0.5) < 0.15, str(evidence.auroc)


def test_the_same_seed_gives_the_same_probe() -> None:
    again = fit_claim_probe(host(), *parts(), reading="probe", sites=MIDDLE, provenance={"data": "lab"})
    assert again.card == probe("probe").card


@pytest.mark.parametrize("place", [0, 1, 2])
def test_claims_of_one_class_are_refused(place: int) -> None:
    sides = list(parts())
    sides[place] = all_right(sides[place])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"{sides[place].split.__name__}: .* graded claims are right"):
        fit_claim_probe(host(), *sides, sites=MIDDLE)  # type: ignore[arg-type]


def test_answers_without_claims_are_refused() -> None:
    fit, tune, held_out = parts()
    silent = replace(fit, said=tuple(replace(one, claims=()) for one in fit.said), grades=((),) * len(fit.said))
    with pytest.raises(DataError, match="Fit: the grader could tell none of 0 claims"):
        fit_claim_probe(host(), silent, tune, held_out, sites=MIDDLE)


def test_claims_that_the_grader_cannot_tell_are_counted() -> None:
    fit, tune, held_out = parts()
    unknown = tuple(tuple(replace(grade, truth="unknown") for grade in grades) for grades in fit.grades)
    count = sum(map(len, unknown))
    assert count > 10
    with pytest.raises(DataError, match=f"Fit: the grader could tell none of {count} claims"):
        fit_claim_probe(host(), replace(fit, grades=unknown), tune, held_out, sites=MIDDLE)


def test_a_group_in_two_splits_is_refused() -> None:
    fit, tune, held_out = parts()
    shared = replace(tune, groups=(fit.groups[3], *tune.groups[1:]))
    with pytest.raises(DataError, match="1 groups stand in Fit and in Tune") as caught:
        fit_claim_probe(host(), fit, shared, held_out, sites=MIDDLE)
    assert repr(fit.groups[3]) in str(caught.value)


def test_too_few_groups_are_refused() -> None:
    fit, tune, held_out = parts()
    with pytest.raises(DataError, match="Fit: 1 groups with right claims and 1 groups with wrong ones"):
        fit_claim_probe(host(), replace(fit, groups=("one",) * len(fit.groups)), tune, held_out, sites=MIDDLE)


@dataclass
class Watched:
    """A ``logistic_path`` that remembers which rows it was fitted on and which it scored."""

    pairs: list[tuple[set[tuple[float, ...]], list[tuple[float, ...]]]]

    def __call__(self, rows: torch.Tensor, labels: torch.Tensor, strengths: Sequence[float]) -> Sequence[object]:
        (linear,) = logistic_path(rows, labels, strengths)
        known = {tuple(row.tolist()) for row in rows}

        def score(inputs: torch.Tensor) -> torch.Tensor:
            self.pairs.append((known, [tuple(row.tolist()) for row in inputs]))
            return linear(inputs)

        return (score,)


def test_held_back_scores_come_from_lenses_without_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = parts()[0]
    placer = module.Placer(host().tokenizer, max_length=module.context_length(host()))
    passed = module.read_claims(host(), [placer(said) for said in fit.known], sites_of(host()), confidence=False)
    lens = probe("probe").lens
    assert lens is not None
    spans = passed.spans[lens.card.site]
    inputs = spans.last() if lens.card.pooling == "last" else spans.mean()
    owners: dict[tuple[float, ...], set[str]] = {}
    for row, group in zip(inputs, fit.claim_groups, strict=True):
        owners.setdefault(tuple(row.tolist()), set()).add(group)
    watched = Watched([])
    monkeypatch.setattr(module, "logistic_path", watched)
    scores = module._held_back(fit, passed, lens, 0)
    assert len(watched.pairs) == FOLDS
    assert sum(len(scored) for _, scored in watched.pairs) == len(scores) == len(fit.labels)
    for known, scored in watched.pairs:
        fitted_on = {group for row in known for group in owners[row]}
        assert not fitted_on & {group for row in scored for group in owners[row]}
    truth = fit.labels
    own = lens.read(spans)
    assert auroc(scores[truth].numpy(), scores[~truth].numpy()) < auroc(own[truth].numpy(), own[~truth].numpy())


def test_weights_of_raw_features_are_those_of_standardised_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(300, generator=generator) < 0.5
    values = {
        "a": labels * 2.0 + torch.randn(300, generator=generator),
        "b": 1e3 * torch.randn(300, generator=generator),
    }
    names, (a, b), bias = module._weighed(("a", "b"), values, labels)
    assert names == ("a", "b")
    assert a > 100 * abs(b)
    scores = a * values["a"] + b * values["b"] + bias
    assert float(scores.sigmoid().mean()) == pytest.approx(float(labels.float().mean()), abs=1e-3)
    scaled = module._weighed(("a", "b"), {**values, "a": 10 * values["a"] + 5}, labels)
    assert scaled[1] == pytest.approx((a / 10, b), rel=1e-3)


def test_only_claims_that_stand_and_are_settled_are_learned_from() -> None:
    texts = ("ann keeps a cat.", "ann keeps a dog.", "ann likes figs.", "ann is nice.")
    answer = " ".join(texts)
    stances = ("asserted", "withdrawn", "hedged", "asserted")
    claims = tuple(
        Claim(text=text, start=answer.index(text), end=answer.index(text) + len(text), stance=stance)
        for text, stance in zip(texts, stances, strict=True)
    )
    truths: tuple[Truth, ...] = ("wrong", "right", "right", "unknown")
    side = GradedAnswers(
        said=(Said(prompt=(), answer=answer, claims=claims), Said(prompt=(), answer="", claims=())),
        grades=(tuple(Grade(truth=truth, reason="") for truth in truths), ()),
        groups=("ann", "bob"),
        split=Fit,
    )
    assert [one.answer for one in side.known] == [f"{texts[0]} {texts[2]}", ""]
    assert side.labels.tolist() == [False, True]
    assert side.claim_groups == ("ann", "ann")


def test_sites_are_the_residual_stream_after_every_layer() -> None:
    assert [str(site) for site in sites_of(host())] == [f"{layer}.resid_post" for layer in range(host().n_layers)]
